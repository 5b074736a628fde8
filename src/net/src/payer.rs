//! Who pays for what a socket has sent and nobody has read.

use std::fmt;

/// An account beside the pod's own: of the process, say, that the socket is one of. It is asked while a connection is
/// locked, and must answer at once.
pub trait Payer: fmt::Debug + Send + Sync {
    /// Takes so many bytes on the account; `false` if it has no room for them.
    fn take(&self, bytes: usize) -> bool;

    /// So many bytes of those that were taken are gone.
    fn give_back(&self, bytes: usize);
}
