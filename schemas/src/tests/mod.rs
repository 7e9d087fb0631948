//! What holds for every record: types and schemas say the same, bytes and JSON go both ways, and no bytes panic.

mod codec;
mod fingerprint;
mod records;
#[cfg(feature = "registry")]
mod registry;
mod stored;

use proptest::prelude::*;

/// A source of values: takes what proptest chose, then nothing but zeros, so that failing cases shrink.
#[derive(Debug, Clone)]
pub struct Choices(pub(crate) std::vec::IntoIter<u64>);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0.next().unwrap_or(0)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn long(&mut self) -> i64 {
        match self.below(6) {
            0 => 0,
            1 => i64::MIN,
            2 => i64::MAX,
            3 => self.next() as i8 as i64,
            4 => self.next() as i32 as i64,
            _ => self.next() as i64,
        }
    }

    pub(crate) fn text(&mut self) -> String {
        match self.below(5) {
            0 => String::new(),
            1 => format!("order-{}", self.next()),
            2 => "Zoë, 漢字, 🚚\u{0}\"\\".to_owned(),
            3 => "x".repeat(self.below(200)),
            _ => char::from_u32(self.next() as u32 % 0x11_0000).map(String::from).unwrap_or_default(),
        }
    }
}

pub(crate) fn choices() -> impl Strategy<Value = Choices> {
    prop::collection::vec(any::<u64>(), 0..200).prop_map(|all| Choices(all.into_iter()))
}

/// Calls a generic function once for each record type.
macro_rules! for_every_record {
    ($check:ident $arguments:tt) => {
        for_every_record!(@each $check $arguments
            CancelRequested OrderAccepted OrderEvent OrderPlaced OrderRejected PaymentCommand PaymentEvent Product
            ShipmentUpdate StockAdjustment StockCommand StockEvent StockLevel)
    };
    (@each $check:ident $arguments:tt $($record:ident)+) => {
        $( for_every_record!(@one $check $arguments $record); )+
    };
    (@one $check:ident ($($argument:expr),*) $record:ident) => {
        $check::<$crate::$record>($($argument),*)
    };
}
pub(crate) use for_every_record;
