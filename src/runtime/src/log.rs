//! Where a guest's standard output and error go.

use std::fmt;
use std::task::{Context, Poll};

/// Which of a process's two output streams a piece of log came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error, and what the runtime itself reports about the guest.
    Stderr,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// Takes what a process writes.
///
/// Called on the threads that run guests, possibly by several at once. It must not block: a sink that can
/// fall behind says so by [`poll_ready`](Self::poll_ready), and the guest that writes waits, not its thread.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line, with its newline; or, without one, a part of a line longer than 16 KiB, or the
    /// unfinished last line of a guest that ended.
    fn write(&self, stream: LogStream, line: &[u8]);

    /// Whether the sink can take more. `Pending` holds back the guests that write, and must wake every waker
    /// it was given once there is room again. It is advice: writes in flight still arrive.
    fn poll_ready(&self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Takes what a process writes as it is, for those who are attached to it. What was said about blocking for
/// [`LogSink`] holds here as well.
pub trait OutputSink: Send + Sync + 'static {
    /// Takes some bytes, of any length up to 64 KiB.
    fn write(&self, stream: LogStream, bytes: &[u8]);

    /// Whether the sink can take more; see [`LogSink::poll_ready`].
    fn poll_ready(&self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Throws everything away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl LogSink for Discard {
    fn write(&self, _stream: LogStream, _line: &[u8]) {}
}
