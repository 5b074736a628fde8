//! The streams of exec, attach and port-forward: WebSocket and SPDY/3.1, and the ways between them.
//!
//! Clients ask for several byte streams over one connection, in one of two protocols. Old ones (and `kubectl` when told
//! to) speak SPDY/3.1; newer ones speak WebSocket, with a channel number in front of each message, or, for
//! port-forward, with SPDY inside of the messages. Who serves them should not care:
//!
//! 1. [`handshake`] reads the head of the request, chooses a protocol, and makes the head of the answer.
//! 2. The upgraded connection then becomes an [`ExecSession`] (also for attach) or a [`ForwardSession`], whose
//!    streams are plain [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite).
//!
//! Below, `mux` holds the streams of one connection and their bounds; [`spdy`] and `websocket` carry them. [`relay`]
//! passes an upgraded connection on without looking into it, and [`inner`] makes an HTTP connection that never leaves
//! the process.
//!
//! Everything that a peer sends is bounded by [`Limits`]. A frame that makes no sense ends its connection, never more.

pub mod handshake;
pub mod inner;
mod mux;
pub mod relay;
mod session;
pub mod spdy;
mod websocket;

use std::time::Duration;

pub use mux::{Connection, Headers, OpenError, Stream};
pub use session::{
    exec::{ExecSession, Outcome, Resizes, SessionError, TerminalSize, Wanted},
    forward::{Forward, ForwardSession, serve as serve_forwards},
};

/// What one connection may use, with the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Streams that are open at a time; more are refused. A forwarded connection takes two. Default 256.
    pub streams: usize,
    /// Bytes that a stream holds for its reader before the peer has to wait. Default 64 KiB, with which a stream of
    /// SPDY/3.1 begins.
    pub inbound: usize,
    /// Bytes that all streams together hold for the peer before their writers have to wait. Default 256 KiB.
    pub outbound: usize,
    /// The largest header block of a SPDY frame, as it comes and unpacked, in bytes. Default 16 KiB.
    pub headers: usize,
    /// The largest WebSocket message that is accepted, in bytes. Default 4 MiB.
    pub message: usize,
    /// How long a connection may be silent in both directions. Default 4 hours, as a kubelet has it.
    pub idle: Duration,
    /// How long the streams that were asked for may take to be opened. Default 30 seconds.
    pub creation: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            inbound: 64 << 10,
            outbound: 256 << 10,
            headers: 16 << 10,
            message: 4 << 20,
            idle: Duration::from_hours(4),
            creation: Duration::from_secs(30),
        }
    }
}
