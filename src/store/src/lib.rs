//! A revisioned key-value store over bytes, with interchangeable backends.
//!
//! Enter at [`Store`], the contract. Two backends keep it: [`Redb`], one file on disk, and [`Memory`], which forgets
//! everything. One suite of tests runs on both, so code written against the trait cannot tell them apart.
//!
//! The store sees keys, bytes and revisions, never objects. Its words are etcd's: every write makes a new *revision*
//! of the whole store; a key has a *create revision* and a *mod revision*; old revisions stay readable and watchable
//! until they are *compacted*.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vaquita_store::{Expect, Store, Write, memory};
//!
//! let store = memory();
//! let first = store.commit(Write::put("/colours/sky", "blue", Expect::Absent)).await?;
//! store.commit(Write::put("/colours/sky", "grey", Expect::Revision(first.revision))).await?;
//!
//! let (now, _) = store.get(b"/colours/sky", None).await?;
//! let (then, _) = store.get(b"/colours/sky", Some(first.revision)).await?;
//! assert_eq!(now.unwrap().value, "grey");
//! assert_eq!(then.unwrap().value, "blue");
//! # Ok(()) }
//! ```

mod compactor;
mod contract;
mod disk;
mod error;
mod head;
mod memory;
mod types;
mod watch;

pub use compactor::compact_every;
pub use contract::Store;
pub use disk::{OpenError, Options, Redb};
pub use error::{BackendError, CommitError, CompactError, ReadError, WatchError};
pub use memory::{Memory, memory};
pub use types::{
    Committed, Event, EventKind, Expect, KeyValue, Limits, Page, Range, Revision, Write,
};
pub use watch::Watch;

#[cfg(test)]
mod tests;
