//! HTTP in, one record out; orders as people ask for them.
