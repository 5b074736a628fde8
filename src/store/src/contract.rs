//! The contract that every backend keeps.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CommitError, Committed, CompactError, KeyValue, Page, Range, ReadError, Revision, Watch,
    WatchError, Write,
};

/// A revisioned key-value store.
///
/// These laws hold for every backend:
///
/// - **Durable.** [`commit`](Store::commit) returns only when the write survives a crash of the process and of the
///   machine, as far as the backend promises to keep anything.
/// - **One sequence.** A successful write makes exactly one revision, the successor of the previous one. A refused
///   write makes none.
/// - **Own writes are seen.** A read that begins after a commit returned sees that commit, and so does a watcher: its
///   event is there to be taken when `commit` returns, or before.
/// - **One moment.** Everything in one answer is true of one revision, the one that the answer names.
/// - **History.** A read at an old revision, and a watch from one, give what they would have given then, until
///   [`compact`](Store::compact) says that nobody needs it any more.
/// - **A slow watcher costs itself.** It reads what it missed from history. It holds up no writer, and what is kept in
///   memory for it is bounded.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key at revision `at`, or at the newest revision; and the revision of which the answer is true.
    async fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<(Option<KeyValue>, Revision), ReadError>;

    /// The keys of a range, in ascending order.
    async fn range(&self, range: Range) -> Result<Page, ReadError>;

    /// Writes to one key, if the write's precondition holds.
    ///
    /// If the returned future is dropped, the write may or may not happen.
    async fn commit(&self, write: Write) -> Result<Committed, CommitError>;

    /// All changes after revision `after` of keys that begin with `prefix`: first those that are history, then
    /// new ones as they happen. `after` may lie in the future; then events up to it are left out.
    fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, WatchError>;

    /// Gives up history: after this, `to` is the oldest revision that can be read or watched from.
    ///
    /// Returns when that is durable; space is given back little by little behind the scenes. A revision that is already
    /// compacted changes nothing.
    async fn compact(&self, to: Revision) -> Result<(), CompactError>;

    /// The newest revision.
    fn revision(&self) -> Revision;

    /// The oldest revision that can be read or watched from; 0 as long as nothing was compacted.
    fn compacted(&self) -> Revision;

    /// Finishes the writes that have begun, refuses new ones, ends all watches, and releases what the store holds.
    /// Closing twice is allowed.
    async fn close(&self);
}
