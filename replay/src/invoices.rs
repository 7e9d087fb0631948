//! Reads the compressed file, line by line, into invoices. Knows the form of the file; never what becomes of it.

use std::collections::HashMap;
use std::io::Read;

/// Why the file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The compressed stream is broken.
    #[error("the file is not zstd, or is cut short: fetch it again ({0})")]
    Compressed(#[from] std::io::Error),
    /// A line is no CSV of eight fields.
    #[error("the file is not the CSV expected: {0}")]
    Csv(#[from] csv::Error),
    /// A field does not say what it should.
    #[error("line {line}: {field} is {value:?}; is this the Online Retail file, with dates as YYYY-MM-DD HH:MM:SS?")]
    Field {
        /// Counted from 1, the header included.
        line: u64,
        /// The column.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// Numbers beyond anything a shop sells.
    #[error("the selected orders are worth more than can be counted")]
    TooMuch,
}

/// One line of an invoice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) sku: u32,
    pub(crate) quantity: i32,
    /// Thousandths of a pound, as in the file.
    pub(crate) mills: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Numeric,
    Cancellation,
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Invoice {
    pub(crate) number: String,
    pub(crate) kind: Kind,
    /// Of its first line, ms since 1970, read as UTC.
    pub(crate) at: i64,
    /// Digits, or empty.
    pub(crate) customer: String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Sku {
    /// Upper case.
    pub(crate) code: String,
    /// The first that is not empty on a line with a price.
    pub(crate) description: String,
}

impl Sku {
    /// Postage, fees, vouchers: codes that do not begin with five digits; the `DCGS` codes are gift goods.
    pub(crate) fn is_service(&self) -> bool {
        let code = self.code.as_bytes();
        !(code.len() >= 5 && code[..5].iter().all(u8::is_ascii_digit) || code.starts_with(b"DCGS"))
    }
}

/// All invoices in the order of their first lines, all SKUs, and how many lines there were.
pub(crate) struct Invoices {
    pub(crate) invoices: Vec<Invoice>,
    pub(crate) skus: Vec<Sku>,
    pub(crate) lines: u64,
}

pub(crate) fn read(compressed: impl Read) -> Result<Invoices, ReadError> {
    let plain = zstd::stream::read::Decoder::new(compressed)?;
    let mut csv = csv::ReaderBuilder::new().has_headers(true).from_reader(plain);
    let mut read = Invoices { invoices: Vec::new(), skus: Vec::new(), lines: 0 };
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut codes: HashMap<String, u32> = HashMap::new();
    let mut record = csv::StringRecord::new();
    while csv.read_record(&mut record)? {
        read.lines += 1;
        let line = read.lines + 1;
        let field = |at: usize| record.get(at).unwrap_or_default().trim();
        let bad = |at: usize, name: &'static str| ReadError::Field { line, field: name, value: field(at).to_owned() };
        let quantity: i32 = field(3).parse().map_err(|_| bad(3, "Quantity"))?;
        let at = millis(field(4)).ok_or_else(|| bad(4, "InvoiceDate"))?;
        let mills = mills(field(5)).ok_or_else(|| bad(5, "UnitPrice"))?;
        let customer = field(6).strip_suffix(".0").unwrap_or(field(6));
        if field(0).is_empty() || field(1).is_empty() || !customer.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad(0, "InvoiceNo, StockCode or CustomerID"));
        }
        let code = field(1).to_ascii_uppercase();
        let sku = match codes.get(&code) {
            Some(sku) => *sku,
            None => {
                let sku = u32::try_from(read.skus.len()).map_err(|_| bad(1, "StockCode"))?;
                read.skus.push(Sku { code: code.clone(), description: String::new() });
                codes.insert(code, sku);
                sku
            }
        };
        let known = &mut read.skus[sku as usize].description;
        if known.is_empty() && mills > 0 {
            field(2).clone_into(known);
        }
        let at_number = match numbers.get(field(0)) {
            Some(known) => *known,
            None => {
                numbers.insert(field(0).to_owned(), read.invoices.len());
                let kind = match field(0).as_bytes() {
                    [b'C', ..] => Kind::Cancellation,
                    number if number.iter().all(u8::is_ascii_digit) => Kind::Numeric,
                    _ => Kind::Other,
                };
                let (number, customer) = (field(0).to_owned(), customer.to_owned());
                read.invoices.push(Invoice { number, kind, at, customer, lines: Vec::new() });
                read.invoices.len() - 1
            }
        };
        read.invoices[at_number].lines.push(Line { sku, quantity, mills });
    }
    Ok(read)
}

/// A decimal with at most three places, in thousandths.
fn mills(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if part.len() > 3 || whole.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok().filter(|whole| (0..1_000_000_000).contains(whole))?;
    let part: i64 = format!("{part:0<3}").parse().ok()?;
    Some(sign * (whole * 1000 + part))
}

/// `YYYY-MM-DD HH:MM:SS` as ms since 1970, read as UTC.
fn millis(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 19 || !text.is_ascii() || [bytes[4], bytes[7], bytes[10], bytes[13], bytes[16]] != *b"-- ::" {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, the year beginning in March so that a leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact() {
        assert_eq!(mills("2.1"), Some(2100));
        assert_eq!(mills("0.001"), Some(1));
        assert_eq!(mills("-11062.06"), Some(-11_062_060));
        assert_eq!(mills("38970"), Some(38_970_000));
        for wrong in ["", ".5", "1.2345", "1e3", "1.-2", "--1", "x"] {
            assert_eq!(mills(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(millis("1970-01-01 00:00:00"), Some(0));
        assert_eq!(millis("2010-12-01 08:26:00"), Some(1_291_191_960_000));
        assert_eq!(millis("2012-02-29 23:59:59"), Some(1_330_559_999_000));
        for wrong in ["2010-12-01", "2010-13-01 08:26:00", "2010/12/01 08:26:00", "2010-12-01T08:26:00"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
