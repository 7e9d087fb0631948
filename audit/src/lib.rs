//! Recomputes from the topics alone what must be true of every order.
