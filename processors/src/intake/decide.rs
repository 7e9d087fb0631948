//! What becomes of a placed order: the whole policy of intake. Pure.

use millrace_schemas::{Money, OrderAccepted, OrderLine, OrderPlaced, OrderRejected, PricedLine, RejectReason};

use crate::planted;

/// SKUs named in a refusal; more are only counted.
const SKUS_NAMED_MAX: usize = 50;
/// So many digits in a row are a card number, not a token.
const CARD_DIGITS_MIN: usize = 12;

/// What intake is told by the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Most lines of an order.
    pub lines_max: usize,
    /// Most pieces of one SKU in an order.
    pub quantity_max: i64,
    /// Whether plainly sold-out SKUs are refused here already. Advice: the ledger has the last word either way.
    pub sold_out_advice: bool,
}

/// A product that is for sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Price of one piece, minor units, never negative.
    pub unit_price_minor: i64,
    /// ISO 4217.
    pub currency: &'a str,
}

/// What the shop knows, as of some moment not long ago.
pub trait Shop {
    /// The product, when it is known and for sale.
    fn offer(&self, sku: &str) -> Option<Offer<'_>>;
    /// How many pieces can still be reserved; `None` where the ledger never spoke of the SKU.
    fn available(&self, sku: &str) -> Option<i64>;
}

/// What follows from a placed order.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The same order was answered before; nothing follows.
    Repeated,
    /// It is an order.
    Accepted(OrderAccepted),
    /// It is refused, with a reason.
    Rejected(OrderRejected),
}

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    reason: RejectReason,
    detail: String,
    skus: Vec<String>,
}

/// Priced lines and their sum, or why not.
pub type Answer = Result<(Vec<PricedLine>, Money), Refusal>;

/// What becomes of `order`, given the fingerprint of the order that holds its id, if any.
#[must_use]
pub fn decide(holder: Option<&str>, order: OrderPlaced, shop: &impl Shop, rules: &Rules, now: i64) -> Decision {
    let fingerprint = order.fingerprint();
    let holder = holder.filter(|_| !planted::is(planted::Defect::OrderAcceptedTwice));
    match holder {
        Some(_) if planted::is(planted::Defect::ConflictTaken) => return Decision::Repeated,
        Some(holder) if holder == fingerprint => return Decision::Repeated,
        Some(_) => {
            let detail = "this order id belongs to an order with other content".to_owned();
            let refusal = Refusal { reason: RejectReason::ConflictingDuplicate, detail, skus: Vec::new() };
            return rejected(order, refusal, fingerprint, now);
        }
        None => {}
    }
    match price(&order, shop, rules) {
        Ok((lines, total)) => Decision::Accepted(OrderAccepted {
            order_id: order.order_id,
            customer_id: order.customer_id,
            lines,
            total,
            payment_method: order.payment_method,
            fingerprint,
            channel: order.channel,
            placed_at: order.placed_at,
            accepted_at: now,
        }),
        Err(refusal) => rejected(order, refusal, fingerprint, now),
    }
}

fn rejected(order: OrderPlaced, refusal: Refusal, fingerprint: String, now: i64) -> Decision {
    Decision::Rejected(OrderRejected {
        order_id: order.order_id,
        customer_id: order.customer_id,
        reason: refusal.reason,
        detail: refusal.detail,
        skus: refusal.skus,
        fingerprint,
        placed_at: order.placed_at,
        rejected_at: now,
    })
}

/// The order's lines priced from the catalog, each SKU once, ascending; or the first reason against it.
fn price(order: &OrderPlaced, shop: &impl Shop, rules: &Rules) -> Answer {
    check_form(order, rules)?;
    let wanted = added_up(&order.lines, rules)?;
    let lines = priced(&wanted, &order.currency, shop)?;
    let sum = lines.iter().try_fold(0_i64, |sum, line| sum.checked_add(line.line_total_minor));
    let Some(minor) = sum else {
        return Err(refusal(RejectReason::AmountOverflow, "the total is larger than any amount of money"));
    };
    let total = Money { minor, currency: order.currency.clone() };
    if let Some(expected) = &order.expected_total
        && *expected != total
    {
        let detail = format!(
            "expected {} {}, but it costs {} {} (minor units)",
            expected.minor, expected.currency, total.minor, total.currency
        );
        return Err(Refusal { reason: RejectReason::PriceChanged, detail, skus: Vec::new() });
    }
    if rules.sold_out_advice {
        check_stock(&lines, shop)?;
    }
    Ok((lines, total))
}

fn check_form(order: &OrderPlaced, rules: &Rules) -> Result<(), Refusal> {
    if order.lines.is_empty() {
        return Err(refusal(RejectReason::Empty, "an order needs at least one line"));
    }
    if order.lines.len() > rules.lines_max {
        let detail = format!("{} lines, at most {} are taken", order.lines.len(), rules.lines_max);
        return Err(refusal(RejectReason::TooManyLines, detail));
    }
    if order.payment_method.is_empty() {
        return Err(refusal(RejectReason::BadPaymentMethod, "a payment method is needed: a token of the provider"));
    }
    if looks_like_a_card_number(&order.payment_method) {
        // Never repeated in the detail.
        return Err(refusal(RejectReason::BadPaymentMethod, "this looks like a card number; only tokens are taken"));
    }
    Ok(())
}

fn looks_like_a_card_number(token: &str) -> bool {
    let digits = token.chars().filter(char::is_ascii_digit).count();
    digits >= CARD_DIGITS_MIN && token.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == '-')
}

/// Lines with the same SKU as one, ascending by SKU.
fn added_up<'a>(lines: &'a [OrderLine], rules: &Rules) -> Result<Vec<(&'a str, i32)>, Refusal> {
    let bad = name_skus(lines.iter().filter(|line| line.quantity < 1).map(|line| line.sku.as_str()));
    if !bad.is_empty() {
        let detail = "every quantity must be at least 1".to_owned();
        return Err(Refusal { reason: RejectReason::BadQuantity, detail, skus: bad });
    }
    let mut sorted: Vec<(&str, i64)> = lines.iter().map(|l| (l.sku.as_str(), i64::from(l.quantity))).collect();
    sorted.sort_unstable();
    // At most lines_max quantities of 32 bits: their sum fits 64 bits.
    sorted.dedup_by(|next, kept| {
        next.0 == kept.0 && {
            kept.1 += next.1;
            true
        }
    });
    let fits = |quantity: i64| i32::try_from(quantity).ok().filter(|_| quantity <= rules.quantity_max);
    let bad = name_skus(sorted.iter().filter(|(_, quantity)| fits(*quantity).is_none()).map(|(sku, _)| *sku));
    if !bad.is_empty() {
        let detail = format!("at most {} pieces of one SKU are taken", rules.quantity_max);
        return Err(Refusal { reason: RejectReason::BadQuantity, detail, skus: bad });
    }
    Ok(sorted.into_iter().filter_map(|(sku, quantity)| Some((sku, fits(quantity)?))).collect())
}

fn priced(wanted: &[(&str, i32)], currency: &str, shop: &impl Shop) -> Result<Vec<PricedLine>, Refusal> {
    let mut lines = Vec::with_capacity(wanted.len());
    let (mut unknown, mut foreign, mut too_large) = (Vec::new(), Vec::new(), Vec::new());
    for &(sku, quantity) in wanted {
        match shop.offer(sku) {
            None => unknown.push(sku),
            Some(offer) if offer.currency != currency => foreign.push(sku),
            Some(offer) => match offer.unit_price_minor.checked_mul(i64::from(quantity)) {
                None => too_large.push(sku),
                Some(line_total_minor) => lines.push(PricedLine {
                    sku: sku.to_owned(),
                    quantity,
                    unit_price_minor: offer.unit_price_minor,
                    line_total_minor,
                }),
            },
        }
    }
    let against =
        |reason, detail: String, skus: Vec<&str>| Refusal { reason, detail, skus: name_skus(skus.into_iter()) };
    if !unknown.is_empty() {
        let detail = format!("{} SKUs are not for sale", unknown.len());
        return Err(against(RejectReason::UnknownSku, detail, unknown));
    }
    if !foreign.is_empty() {
        let detail = format!("{} SKUs are not sold in {currency:?}", foreign.len());
        return Err(against(RejectReason::CurrencyMismatch, detail, foreign));
    }
    if !too_large.is_empty() {
        let detail = "price times quantity is larger than any amount of money".to_owned();
        return Err(against(RejectReason::AmountOverflow, detail, too_large));
    }
    Ok(lines)
}

/// Refuses what the ledger's last word says cannot be granted. A SKU it never spoke of is left to it.
fn check_stock(lines: &[PricedLine], shop: &impl Shop) -> Result<(), Refusal> {
    let short = |line: &&PricedLine| shop.available(&line.sku).is_some_and(|left| left < i64::from(line.quantity));
    let skus = name_skus(lines.iter().filter(short).map(|line| line.sku.as_str()));
    if skus.is_empty() {
        return Ok(());
    }
    Err(Refusal { reason: RejectReason::SoldOut, detail: "fewer are left than wanted".to_owned(), skus })
}

fn refusal(reason: RejectReason, detail: impl Into<String>) -> Refusal {
    Refusal { reason, detail: detail.into(), skus: Vec::new() }
}

fn name_skus<'a>(skus: impl Iterator<Item = &'a str>) -> Vec<String> {
    skus.take(SKUS_NAMED_MAX).map(str::to_owned).collect()
}
