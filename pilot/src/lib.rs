//! Queue, pilot and user commands. The binary `pilot` is a thin shell over this library.

pub mod api;
