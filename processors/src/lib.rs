//! The five decisions: intake, payment, stock, fulfillment, tracking.
