//! What a process is told and may keep, besides files: settings by name, and stores of keys with values.
//!
//! Guests reach them by `wasi:config`, `wasi:keyvalue` and the interfaces of Spin that mean the same (`wit-settings`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use thiserror::Error;

/// Settings and stores of a process.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Settings {
    /// Settings by name. Default: none.
    pub values: BTreeMap<String, String>,
    /// Stores that it may open, by name. Default: none.
    pub stores: BTreeMap<String, Arc<dyn KeyValue>>,
}

impl fmt::Debug for Settings {
    // Values are secrets, often enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("values", &self.values.keys())
            .field("stores", &self.stores.keys())
            .finish()
    }
}

/// A store of keys with values, which several processes may use at once.
#[async_trait]
pub trait KeyValue: Send + Sync + 'static {
    /// The value of a key, if it has one.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;
    /// Gives a key a value, in place of the one that it has.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError>;
    /// Takes a key's value away, if it has one.
    async fn delete(&self, key: &str) -> Result<(), KeyValueError>;
    /// All keys that have values.
    async fn keys(&self) -> Result<Vec<String>, KeyValueError>;
}

/// Why a store could not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyValueError {
    /// It would hold more than it may.
    #[error("the store is full: it holds at most {limit} bytes")]
    Full {
        /// How much it may hold.
        limit: u64,
    },
    /// A key or value is longer than it may be.
    #[error("{size} bytes are too long for a {what}: at most {limit} are")]
    TooLong {
        /// Of a key, or a value.
        what: &'static str,
        /// How long it is.
        size: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Its files failed.
    #[error("the store's files failed: {0}")]
    Io(#[from] std::io::Error),
}

/// The longest key, in bytes.
const LONGEST_KEY: usize = 1024;
/// The longest value, in bytes.
const LONGEST_VALUE: usize = 1 << 20;
/// What each key takes besides its bytes and its value's, about.
const EACH: u64 = 128;

/// Refuses what no store takes.
pub(crate) fn check(key: &str, value: &[u8]) -> Result<(), KeyValueError> {
    for (what, size, limit) in [
        ("key", key.len(), LONGEST_KEY),
        ("value", value.len(), LONGEST_VALUE),
    ] {
        if size > limit {
            return Err(KeyValueError::TooLong { what, size, limit });
        }
    }
    Ok(())
}

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    limit: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    values: BTreeMap<String, Vec<u8>>,
    /// What they take together.
    size: u64,
}

fn size_of(key: &str, value: &[u8]) -> u64 {
    EACH + (key.len() + value.len()) as u64
}

impl MemoryStore {
    /// An empty store that may hold so many bytes. Each key counts as 128 more than it has with its value.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            kept: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyValue for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.lock().values.get(key).cloned())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        check(key, &value)?;
        let mut kept = self.lock();
        let before = kept.values.get(key).map_or(0, |value| size_of(key, value));
        let size = kept.size - before + size_of(key, &value);
        if size > self.limit {
            return Err(KeyValueError::Full { limit: self.limit });
        }
        kept.size = size;
        kept.values.insert(key.to_owned(), value);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        let mut kept = self.lock();
        if let Some(value) = kept.values.remove(key) {
            kept.size -= size_of(key, &value);
        }
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<String>, KeyValueError> {
        Ok(self.lock().values.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_keeps_what_it_has_room_for() {
        let store = MemoryStore::new(2 * EACH + 10);
        store.set("a", b"1234".to_vec()).await.unwrap();
        store.set("b", b"1234".to_vec()).await.unwrap();
        let refused = store.set("b", b"12345".to_vec()).await;
        assert!(matches!(refused, Err(KeyValueError::Full { .. })));
        assert_eq!(store.get("b").await.unwrap().unwrap(), b"1234");
        store.delete("a").await.unwrap();
        store.delete("a").await.unwrap();
        store.set("b", b"12345".to_vec()).await.unwrap();
        assert_eq!(store.keys().await.unwrap(), ["b"]);
        assert!(store.get("a").await.unwrap().is_none());
        assert_eq!(store.lock().size, EACH + 6);
    }

    #[tokio::test]
    async fn keys_and_values_are_bounded() {
        let store = MemoryStore::new(u64::MAX);
        let long = "k".repeat(LONGEST_KEY + 1);
        let refused = store.set(&long, Vec::new()).await;
        assert!(matches!(
            refused,
            Err(KeyValueError::TooLong { what: "key", .. })
        ));
        let refused = store.set("k", vec![0; LONGEST_VALUE + 1]).await;
        assert!(matches!(
            refused,
            Err(KeyValueError::TooLong { what: "value", .. })
        ));
    }
}
