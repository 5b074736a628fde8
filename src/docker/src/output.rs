//! What a program writes, on its way to the caller.

use std::task::{Context, Poll};

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output, and all of a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a program writes.
pub trait Output: Send + Sync + 'static {
    /// Takes some bytes, of any length up to 16 KiB. Must not block.
    fn write(&self, channel: Channel, bytes: &[u8]);

    /// The program has ended, and all of its output was written.
    fn finish(&self) {}

    /// Whether it can take more. `Pending` holds the program back, and must wake the waker once there is room.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let _ = context;
        Poll::Ready(())
    }
}
