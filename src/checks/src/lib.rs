//! Whether a container has started, is ready, is alive; and what else a node asks of containers: hooks.
//!
//! [`Action`] is what a probe or a hook does once, to a [`Target`]. [`Checks`] are the probes of a container, read from its
//! manifest, and [`run`] makes them as long as its future lives.

mod action;
mod probe;

pub use action::{Action, Commands, Get, Outcome, Target};
pub use probe::{Check, Checks, Kind, Signal, run};
