//! How processes end, and what they used.

use std::fmt;
use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::budget::Refusals;

/// The longest message about a trap. Function names in it are the guest's, of any length.
const LONGEST_MESSAGE: usize = 8 << 10;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with that exit code; an HTTP handler that was drained has 0.
    Exited(i32),
    /// The guest broke a rule: unreachable code, an access out of bounds, a division by zero, ...
    Trapped {
        /// What happened, and the guest's stack with the names of its functions.
        message: String,
    },
    /// It failed after it was refused memory beyond its limit.
    OutOfMemory,
    /// By [`Process::terminate`](crate::Process::terminate), before it was done.
    Terminated,
    /// By [`Process::kill`](crate::Process::kill), or the end of its pod or runtime.
    Killed,
    /// It could not be run although it is valid, for example because all instances are in use.
    Failed {
        /// What stood in the way.
        message: String,
    },
}

impl Exit {
    /// The code that a container would have ended with: its own, 134 (SIGABRT) for a trap, 137 (SIGKILL) when killed or
    /// out of memory, 143 (SIGTERM) when terminated, 128 if it never ran.
    pub fn code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::Trapped { .. } => 134,
            Self::OutOfMemory | Self::Killed => 137,
            Self::Terminated => 143,
            Self::Failed { .. } => 128,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Trapped { message } => write!(f, "trapped: {message}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Terminated => f.write_str("terminated"),
            Self::Killed => f.write_str("killed"),
            Self::Failed { message } => write!(f, "failed: {message}"),
        }
    }
}

/// What a process uses and has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes right now, over all its instances: linear memories and tables, and what the host keeps for them (handles, bodies,
    /// unread data).
    pub memory: u64,
    /// The most `memory` has been.
    pub peak_memory: u64,
    /// Time that guest code, and the host on its behalf, has computed.
    pub cpu: Duration,
    /// Instances that exist right now: one for a running program, one for each request in flight.
    pub instances: u64,
    /// Requests that an HTTP handler was given.
    pub requests: u64,
}

/// More memory is used than a new limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{used} bytes of memory are in use, more than the {limit} that there may be")]
#[non_exhaustive]
pub struct OverLimit {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that there may be.
    pub limit: u64,
}

/// Why a guest's call came back with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Exited(i32),
    Trapped(String),
    OutOfMemory,
    /// The engine has no room for another instance.
    Full(String),
}

impl Failure {
    pub(crate) fn of(error: &wasmtime::Error, refusals: &Refusals) -> Self {
        if let Some(I32Exit(code)) = error.downcast_ref() {
            return if *code != 0 && refusals.any() {
                Self::OutOfMemory
            } else {
                Self::Exited(*code)
            };
        }
        if refusals.any() {
            return Self::OutOfMemory;
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return Self::Full(error.to_string());
        }
        Self::Trapped(describe(error))
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Exited(code) => Self::Exited(code),
            Failure::Trapped(message) => Self::Trapped { message },
            Failure::OutOfMemory => Self::OutOfMemory,
            Failure::Full(message) => Self::Failed { message },
        }
    }
}

/// The cause first, then where it happened, with the names of functions as their programmers know them.
fn describe(error: &wasmtime::Error) -> String {
    let mut message = error.root_cause().to_string();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        // Its first line is a heading.
        for frame in backtrace.to_string().lines().skip(1) {
            message.push('\n');
            message.push_str(frame);
        }
    }
    truncate(&mut message);
    message
}

fn truncate(message: &mut String) {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push_str(" ...");
    }
}
