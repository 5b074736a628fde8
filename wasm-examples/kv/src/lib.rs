//! A small key-value server that speaks the Redis protocol: everything but the sockets.
//!
//! [`Store`] holds the data and knows the commands; a [`Session`] is one client's conversation with it, bytes in and
//! bytes out. The program in `main.rs` connects sessions to sockets. Nothing is kept beyond the process: the data is
//! gone when the pod is.

mod commands;
mod session;
mod store;

pub use session::Session;
pub use store::{Bounds, Store};
