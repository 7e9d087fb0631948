//! The engine: topology, tasks, state, transactions, timers and calls, without any I/O.
