//! Money, shared by many records. Never a float.

use crate::define::record;

record! {
    /// An amount of money, exact.
    pub struct Money {
        /// Minor units (cents for EUR, yen for JPY).
        minor: i64,
        /// ISO 4217 code, upper case.
        currency: String,
    }
}
