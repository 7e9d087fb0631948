//! The payment service provider: one trait and a simulated provider with a durable ledger.
