//! How reservations and the ids of adjustments are kept in the ledger's own store: bytes in, bytes out.
//!
//! Keys: `<order_id>/<attempt>` for a reservation, `adjustment/<sku>/<adjustment_id>/` for an adjustment that was
//! applied. The first always ends in a digit, the second never does.
//!
//! Values, numbers big-endian, text as its length (u32) and its bytes:
//! `1 | state u8 | fence_until i64 (i64::MAX: none) | lines u32 | (sku text, quantity i32, shipped i32, short i64
//! (i64::MIN: none))* | shipments u32 | text*`, or `2 | until i64`.

use super::state::{Reservation, ReservationState, ReservedLine};

const RESERVATION: u8 = 1;
const ADJUSTMENT: u8 = 2;
const NO_FENCE: i64 = i64::MAX;
const NOT_SHORT: i64 = i64::MIN;

/// Key of a reservation.
#[must_use]
pub fn reservation_key(order_id: &str, attempt: i32) -> String {
    format!("{order_id}/{attempt}")
}

/// Key of an applied adjustment.
#[must_use]
pub fn adjustment_key(sku: &str, adjustment_id: &str) -> String {
    format!("adjustment/{sku}/{adjustment_id}/")
}

/// When the value may be forgotten, ms since 1970 UTC; `None` while it must be kept.
#[must_use]
pub fn deadline(value: &[u8]) -> Option<i64> {
    let mut bytes = Reader(value);
    let until = match bytes.u8()? {
        RESERVATION => {
            bytes.u8()?;
            bytes.i64()?
        }
        ADJUSTMENT => bytes.i64()?,
        _ => return None,
    };
    (until != NO_FENCE).then_some(until)
}

/// An applied adjustment as it is kept.
#[must_use]
pub fn write_adjustment(until: i64) -> Vec<u8> {
    let mut out = vec![ADJUSTMENT];
    out.extend_from_slice(&until.to_be_bytes());
    out
}

/// A reservation as it is kept.
#[must_use]
pub fn write_reservation(reservation: &Reservation) -> Vec<u8> {
    let text: usize = reservation.lines.iter().map(|line| line.sku.len() + 20).sum();
    let mut out = Vec::with_capacity(32 + text);
    out.push(RESERVATION);
    out.push(match reservation.state {
        ReservationState::Held => 0,
        ReservationState::Refused => 1,
        ReservationState::Released => 2,
        ReservationState::Shipped => 3,
    });
    out.extend_from_slice(&reservation.fence_until.unwrap_or(NO_FENCE).to_be_bytes());
    write_len(&mut out, reservation.lines.len());
    for line in &reservation.lines {
        write_text(&mut out, &line.sku);
        out.extend_from_slice(&line.quantity.to_be_bytes());
        out.extend_from_slice(&line.shipped.to_be_bytes());
        out.extend_from_slice(&line.short.unwrap_or(NOT_SHORT).to_be_bytes());
    }
    write_len(&mut out, reservation.shipments.len());
    for shipment in &reservation.shipments {
        write_text(&mut out, shipment);
    }
    out
}

fn write_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a record's parts are far fewer than 2^32, records are bounded in bytes");
    out.extend_from_slice(&len.to_be_bytes());
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    write_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// A reservation from how it is kept; `None` when the bytes are not one.
#[must_use]
pub fn read_reservation(value: &[u8]) -> Option<Reservation> {
    let mut bytes = Reader(value);
    if bytes.u8()? != RESERVATION {
        return None;
    }
    let state = match bytes.u8()? {
        0 => ReservationState::Held,
        1 => ReservationState::Refused,
        2 => ReservationState::Released,
        3 => ReservationState::Shipped,
        _ => return None,
    };
    let fence_until = Some(bytes.i64()?).filter(|until| *until != NO_FENCE);
    let mut lines = Vec::new();
    for _ in 0..bytes.u32()? {
        lines.push(ReservedLine {
            sku: bytes.text()?,
            quantity: bytes.i32()?,
            shipped: bytes.i32()?,
            short: Some(bytes.i64()?).filter(|available| *available != NOT_SHORT),
        });
    }
    let mut shipments = Vec::new();
    for _ in 0..bytes.u32()? {
        shipments.push(bytes.text()?);
    }
    bytes.0.is_empty().then_some(Reservation { state, lines, shipments, fence_until })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.bytes().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}
