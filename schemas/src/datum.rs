//! Avro's binary form of the shapes that records are made of, and their plain JSON form. Owns bytes and bounds: every
//! length is checked against the bytes that are left before anything is allocated. Never knows a schema id or a topic.

use std::marker::PhantomData;

use serde_json::Value;

/// Why bytes or JSON are not a value of a type, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field from the record down, such as `lines[2].sku`; empty for the record itself.
    pub field: String,
    /// What is wrong there.
    pub problem: String,
}

pub(crate) type Read<T> = Result<T, Box<Fault>>;

impl Fault {
    #[cold]
    pub(crate) fn new(problem: impl Into<String>) -> Box<Self> {
        Box::new(Self { field: String::new(), problem: problem.into() })
    }

    /// The same fault, seen from the record that has this field.
    #[cold]
    pub(crate) fn within(mut self: Box<Self>, field: &str) -> Box<Self> {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{field}{dot}{}", self.field);
        self
    }

    /// The same fault, seen from the array that has this element.
    #[cold]
    pub(crate) fn at(self: Box<Self>, position: usize) -> Box<Self> {
        self.within(&format!("[{position}]"))
    }
}

/// A value with an Avro binary form. Only types of this crate have one.
pub trait Datum: Sized {
    /// The fewest bytes any value takes; bounds how many can be in what is left. Never 0.
    const MIN_BYTES: usize;
    /// Appends the binary form.
    fn write(&self, out: &mut Vec<u8>);
    /// Takes one value off the front of `input`.
    fn read(input: &mut &[u8]) -> Read<Self>;
    /// Passes over one value at the front of `input`; refuses what [`Datum::read`] refuses.
    fn skip(input: &mut &[u8]) -> Read<()>;
    /// The value as plain JSON.
    fn json(&self) -> Value;
    /// The value of plain JSON.
    fn parse_json(json: &Value) -> Read<Self>;
    /// The schema of the type without docs and logical types, all names spelled out; for comparison with the `.avsc`.
    #[cfg(test)]
    fn shape() -> Value;
    /// Some value, made from choices.
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self;
}

/// A record whose fields can be told apart without making anything of them.
pub trait Split: Datum {
    /// Its fields, each a [`Field`] of the same name.
    type Fields<'a>;
    /// Takes one record off the front of `input`; refuses what [`Datum::read`] refuses.
    fn split<'a>(input: &mut &'a [u8]) -> Read<Self::Fields<'a>>;
    /// Appends the binary form.
    fn join(fields: &Self::Fields<'_>, out: &mut Vec<u8>);
}

/// A field of a datum, as it stands there: looked through, and read only when it is asked for.
#[derive(Debug)]
pub struct Field<'a, T> {
    bytes: &'a [u8],
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Field<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<'_, T> {}

impl<'a, T: Datum> Field<'a, T> {
    /// Takes the field off the front of `input`; refuses what [`Datum::read`] refuses.
    #[inline]
    pub(crate) fn take(input: &mut &'a [u8]) -> Read<Self> {
        let all = *input;
        T::skip(input)?;
        Ok(Self { bytes: &all[..all.len() - input.len()], of: PhantomData })
    }

    /// Its value.
    pub fn get(self) -> T {
        T::read(&mut &*self.bytes).expect("it was looked through when it was taken")
    }

    /// Its binary form.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Field<'a, String> {
    /// The binary form of no text.
    pub const EMPTY: Self = Self { bytes: &[0], of: PhantomData };

    /// Its value, borrowed.
    pub fn text(self) -> &'a str {
        read_text(&mut &*self.bytes).expect("it was looked through when it was taken")
    }
}

impl<'a> Field<'a, Option<String>> {
    /// Its value, borrowed.
    pub fn text(self) -> Option<&'a str> {
        let (branch, mut text) = self.bytes.split_first().expect("it was looked through when it was taken");
        (*branch != 0).then(|| read_text(&mut text).expect("it was looked through when it was taken"))
    }
}

#[inline]
fn take<'a>(input: &mut &'a [u8], bytes: usize) -> Read<&'a [u8]> {
    match input.split_at_checked(bytes) {
        Some((taken, rest)) => {
            *input = rest;
            Ok(taken)
        }
        None => Err(Fault::new(format!("needs {bytes} bytes, {} are left", input.len()))),
    }
}

fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Most are of one byte: lengths, counts, branches, symbols.
#[inline]
fn read_long(input: &mut &[u8]) -> Read<i64> {
    match **input {
        [byte @ 0..0x80, ref rest @ ..] => {
            *input = rest;
            Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1))
        }
        _ => read_long_of_many_bytes(input),
    }
}

fn read_long_of_many_bytes(input: &mut &[u8]) -> Read<i64> {
    let mut zigzag = 0u64;
    for (position, &byte) in input.iter().take(10).enumerate() {
        if position == 9 && byte > 1 {
            return Err(Fault::new("is a number of more than 64 bits"));
        }
        zigzag |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            *input = &input[position + 1..];
            return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
    }
    Err(Fault::new("is a number cut short"))
}

#[inline]
fn read_length(input: &mut &[u8]) -> Read<usize> {
    let length = read_long(input)?;
    match usize::try_from(length) {
        Ok(length) if length <= input.len() => Ok(length),
        _ => Err(Fault::new(format!("has length {length}, but {} bytes are left", input.len()))),
    }
}

fn read_text<'a>(input: &mut &'a [u8]) -> Read<&'a str> {
    let length = read_length(input)?;
    text_of(take(input, length)?)
}

fn text_of(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|error| Fault::new(error.to_string()))
}

/// Appends the position of an enum's symbol.
pub(crate) fn write_symbol(position: usize, out: &mut Vec<u8>) {
    write_long(position as i64, out);
}

/// The position of an enum's symbol, below `symbols`.
#[inline]
pub(crate) fn read_symbol(input: &mut &[u8], symbols: usize) -> Read<usize> {
    let position = read_long(input)?;
    usize::try_from(position)
        .ok()
        .filter(|&position| position < symbols)
        .ok_or_else(|| Fault::new(format!("has symbol number {position}, but the enum has {symbols}")))
}

impl Datum for i64 {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        write_long(*self, out);
    }
    fn read(input: &mut &[u8]) -> Read<Self> {
        read_long(input)
    }
    #[inline]
    fn skip(input: &mut &[u8]) -> Read<()> {
        read_long(input).map(drop)
    }
    fn json(&self) -> Value {
        (*self).into()
    }
    fn parse_json(json: &Value) -> Read<Self> {
        json.as_i64().ok_or_else(|| Fault::new(format!("wants a whole number of 64 bits, has {json}")))
    }
    #[cfg(test)]
    fn shape() -> Value {
        "long".into()
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        choices.long()
    }
}

impl Datum for i32 {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        write_long(i64::from(*self), out);
    }
    #[inline]
    fn read(input: &mut &[u8]) -> Read<Self> {
        let value = read_long(input)?;
        Self::try_from(value).map_err(|_| Fault::new(format!("is {value}, more than 32 bits")))
    }
    #[inline]
    fn skip(input: &mut &[u8]) -> Read<()> {
        Self::read(input).map(drop)
    }
    fn json(&self) -> Value {
        (*self).into()
    }
    fn parse_json(json: &Value) -> Read<Self> {
        json.as_i64()
            .and_then(|value| Self::try_from(value).ok())
            .ok_or_else(|| Fault::new(format!("wants a whole number of 32 bits, has {json}")))
    }
    #[cfg(test)]
    fn shape() -> Value {
        "int".into()
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        choices.long() as i32
    }
}

impl Datum for bool {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    #[inline]
    fn read(input: &mut &[u8]) -> Read<Self> {
        match take(input, 1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(Fault::new(format!("is neither false nor true but {other:?}"))),
        }
    }
    #[inline]
    fn skip(input: &mut &[u8]) -> Read<()> {
        Self::read(input).map(drop)
    }
    fn json(&self) -> Value {
        (*self).into()
    }
    fn parse_json(json: &Value) -> Read<Self> {
        json.as_bool().ok_or_else(|| Fault::new(format!("wants true or false, has {json}")))
    }
    #[cfg(test)]
    fn shape() -> Value {
        "boolean".into()
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        choices.below(2) == 1
    }
}

impl Datum for String {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        write_long(self.len() as i64, out);
        out.extend_from_slice(self.as_bytes());
    }
    fn read(input: &mut &[u8]) -> Read<Self> {
        read_text(input).map(str::to_owned)
    }
    #[inline]
    fn skip(input: &mut &[u8]) -> Read<()> {
        let length = read_length(input)?;
        let bytes = take(input, length)?;
        // Almost every text is ASCII, and that is seen sooner than that it is UTF-8.
        if bytes.is_ascii() { Ok(()) } else { text_of(bytes).map(drop) }
    }
    fn json(&self) -> Value {
        self.as_str().into()
    }
    fn parse_json(json: &Value) -> Read<Self> {
        json.as_str().map(str::to_owned).ok_or_else(|| Fault::new(format!("wants text, has {json}")))
    }
    #[cfg(test)]
    fn shape() -> Value {
        "string".into()
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        choices.text()
    }
}

/// The union of null and `T`.
impl<T: Datum> Datum for Option<T> {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(2);
                value.write(out);
            }
        }
    }
    fn read(input: &mut &[u8]) -> Read<Self> {
        match read_long(input)? {
            0 => Ok(None),
            1 => T::read(input).map(Some),
            branch => Err(Fault::new(format!("has branch {branch} of a union of 2"))),
        }
    }
    #[inline]
    fn skip(input: &mut &[u8]) -> Read<()> {
        match read_long(input)? {
            0 => Ok(()),
            1 => T::skip(input),
            branch => Err(Fault::new(format!("has branch {branch} of a union of 2"))),
        }
    }
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Datum::json)
    }
    fn parse_json(json: &Value) -> Read<Self> {
        if json.is_null() { Ok(None) } else { T::parse_json(json).map(Some) }
    }
    #[cfg(test)]
    fn shape() -> Value {
        serde_json::json!(["null", T::shape()])
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        (choices.below(2) == 1).then(|| T::made(choices))
    }
}

/// How many elements the next block of an array has; none at its end.
fn read_block<T: Datum>(input: &mut &[u8]) -> Read<Option<usize>> {
    let count = read_long(input)?;
    if count == 0 {
        return Ok(None);
    }
    if count < 0 {
        read_length(input)?;
    }
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if wanted > input.len() / T::MIN_BYTES {
        return Err(Fault::new(format!("announces {wanted} elements, but {} bytes are left", input.len())));
    }
    Ok(Some(wanted))
}

/// An array: blocks of a count and that many elements, up to a count of 0. A negative count is followed by the block's
/// size in bytes.
impl<T: Datum> Datum for Vec<T> {
    const MIN_BYTES: usize = 1;
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            write_long(self.len() as i64, out);
            for element in self {
                element.write(out);
            }
        }
        out.push(0);
    }
    fn read(input: &mut &[u8]) -> Read<Self> {
        let mut elements = Vec::new();
        while let Some(block) = read_block::<T>(input)? {
            elements.reserve(block);
            for _ in 0..block {
                elements.push(T::read(input).map_err(|fault| fault.at(elements.len()))?);
            }
        }
        Ok(elements)
    }
    fn skip(input: &mut &[u8]) -> Read<()> {
        let mut passed = 0;
        while let Some(block) = read_block::<T>(input)? {
            for _ in 0..block {
                T::skip(input).map_err(|fault| fault.at(passed))?;
                passed += 1;
            }
        }
        Ok(())
    }
    fn json(&self) -> Value {
        self.iter().map(Datum::json).collect()
    }
    fn parse_json(json: &Value) -> Read<Self> {
        let elements = json.as_array().ok_or_else(|| Fault::new(format!("wants an array, has {json}")))?;
        let parse = |(position, element)| T::parse_json(element).map_err(|fault| fault.at(position));
        elements.iter().enumerate().map(parse).collect()
    }
    #[cfg(test)]
    fn shape() -> Value {
        serde_json::json!({ "type": "array", "items": T::shape() })
    }
    #[cfg(test)]
    fn made(choices: &mut crate::tests::Choices) -> Self {
        (0..choices.below(4)).map(|_| T::made(choices)).collect()
    }
}
