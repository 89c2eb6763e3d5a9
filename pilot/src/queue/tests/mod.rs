//! The queue through its router, without TLS.
