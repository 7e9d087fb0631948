//! Turns real shop data into a catalog, opening stock and orders.
