//! Against a real kernel, in a network namespace that each test makes for itself: needs root and `/dev/net/tun`, and fails
//! without.

#![cfg(target_os = "linux")]

mod beside;
mod filter;
mod tcp;
mod tools;
mod udp;
