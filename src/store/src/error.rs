//! What can go wrong, one enum for each operation.

use std::sync::Arc;

use crate::{KeyValue, Limits, Revision, Write};

/// What a backend says when its storage fails. Shared, because one failed transaction fails many writes.
pub type BackendError = Arc<dyn std::error::Error + Send + Sync>;

/// Why a read has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than what history is kept.
    #[error("revision {requested} has been compacted: the oldest that can be read is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} is in the future: the newest is {current}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error("cannot read from the store: {0}")]
    Backend(#[source] BackendError),
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The precondition does not hold, or a key to delete does not exist.
    #[error("the key is not in the expected state: {}", match current {
        Some(current) => format!("it is at revision {}", current.mod_revision),
        None => "it does not exist".to_owned(),
    })]
    Conflict {
        /// The key as it is; `None` if it does not exist.
        current: Option<KeyValue>,
    },
    /// The key is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The key is longer than [`Limits::key_bytes`].
    #[error("the key has {size} bytes: at most {limit} are allowed")]
    KeyTooLarge {
        /// Bytes of the key.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The value is larger than [`Limits::value_bytes`].
    #[error("the value has {size} bytes: at most {limit} are allowed")]
    ValueTooLarge {
        /// Bytes of the value.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More writes are waiting than the store takes on. Nothing happened: try again later.
    #[error("too many writes are waiting")]
    Full,
    /// The store was closed before the write began.
    #[error("the store is closed")]
    Closed,
    /// The storage failed. Whether the write is there after a restart is unknown.
    #[error("cannot write to the store: {0}")]
    Backend(#[source] BackendError),
}

impl Limits {
    /// Refuses a write that is too large.
    pub(crate) fn check(&self, write: &Write) -> Result<(), CommitError> {
        let key = write.key().len();
        if key == 0 {
            return Err(CommitError::EmptyKey);
        }
        if key > self.key_bytes {
            return Err(CommitError::KeyTooLarge {
                size: key,
                limit: self.key_bytes,
            });
        }
        match write {
            Write::Put { value, .. } if value.len() > self.value_bytes => {
                Err(CommitError::ValueTooLarge {
                    size: value.len(),
                    limit: self.value_bytes,
                })
            }
            Write::Put { .. } | Write::Delete { .. } => Ok(()),
        }
    }
}

/// Why a watch cannot begin or go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// Events that the watcher has not seen are no longer kept: read everything anew and watch from there.
    #[error(
        "events after revision {requested} have been compacted: the oldest revision to watch from is {compacted}"
    )]
    Compacted {
        /// The last revision that the watcher has seen.
        requested: Revision,
        /// The oldest revision to watch from.
        compacted: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error("cannot read events from the store: {0}")]
    Backend(#[source] BackendError),
}

/// Why history was not compacted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompactError {
    /// The revision does not exist yet.
    #[error("revision {requested} is in the future: the newest is {current}")]
    Future {
        /// The revision asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The storage failed.
    #[error("cannot compact the store: {0}")]
    Backend(#[source] BackendError),
}
