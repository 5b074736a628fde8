//! The plain values that go in and out of a [`Store`](crate::Store).

use bytes::Bytes;

/// The number of a state of the whole store.
///
/// An empty store is at revision 1; its first write makes revision 2, and every later write the next number. One
/// sequence counts for all keys, so a revision names one moment for all of them.
pub type Revision = u64;

/// The revision of a store that was never written to.
pub(crate) const EMPTY: Revision = 1;

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value as it was written. Empty in the [`Event`] of a deletion.
    pub value: Bytes,
    /// The revision that created the key, or created it again after its last deletion.
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
}

/// What must be true of a key for a write to it to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No precondition. A deletion still needs the key to exist.
    Anything,
    /// The key does not exist. A deletion with this precondition always conflicts.
    Absent,
    /// The key exists and its mod revision is this.
    Revision(Revision),
}

/// A write to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Create the key or give it a new value.
    Put {
        /// The key. Not empty.
        key: Bytes,
        /// The new value. May be empty.
        value: Bytes,
        /// The precondition.
        expect: Expect,
    },
    /// Remove the key.
    Delete {
        /// The key. Not empty.
        key: Bytes,
        /// The precondition.
        expect: Expect,
    },
}

impl Write {
    /// A [`Write::Put`].
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, expect: Expect) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            expect,
        }
    }

    /// A [`Write::Delete`].
    pub fn delete(key: impl Into<Bytes>, expect: Expect) -> Self {
        Self::Delete {
            key: key.into(),
            expect,
        }
    }

    /// The key that is written to.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// Whether the key's current state, its mod revision if it exists, allows this write.
    pub(crate) fn allowed(&self, current: Option<Revision>) -> bool {
        let (expect, needs_key) = match self {
            Self::Put { expect, .. } => (expect, false),
            Self::Delete { expect, .. } => (expect, true),
        };
        match (expect, current) {
            (Expect::Anything, None) => !needs_key,
            (Expect::Anything, Some(_)) => true,
            (Expect::Absent, current) => current.is_none() && !needs_key,
            (Expect::Revision(expected), current) => current == Some(*expected),
        }
    }

    /// Bytes that this write brings with it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision that the write made.
    pub revision: Revision,
    /// The key as it was before, if it existed.
    pub prev: Option<KeyValue>,
}

/// What an [`Event`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created (then `prev` is `None`) or given a new value.
    Put,
    /// The key was deleted.
    Delete,
}

/// One change, as a watcher sees it. Its revision is `kv.mod_revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key and its new value. Of a deletion: the key, an empty value, the create revision that the key had, and
    /// the revision of the deletion.
    pub kv: KeyValue,
    /// The key as it was before, if it existed.
    pub prev: Option<KeyValue>,
}

impl Event {
    /// Bytes of keys and values that this event keeps in memory.
    pub(crate) fn size(&self) -> usize {
        let prev = self
            .prev
            .as_ref()
            .map_or(0, |prev| prev.key.len() + prev.value.len());
        self.kv.key.len() + self.kv.value.len() + prev
    }
}

/// Which keys to read, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first key that is in the range, if it exists.
    pub start: Bytes,
    /// The first key that is not; `None` reads to the last key of the store.
    pub end: Option<Bytes>,
    /// At most so many items; `None` reads all.
    pub limit: Option<usize>,
    /// The revision to read at; `None` is the newest.
    pub at: Option<Revision>,
}

impl Range {
    /// All keys that begin with `prefix`, at the newest revision.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self {
            start,
            end,
            limit: None,
            at: None,
        }
    }

    /// The same range, reading at most `limit` items.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }

    /// The same range at `revision`.
    #[must_use]
    pub fn at(self, revision: Revision) -> Self {
        Self {
            at: Some(revision),
            ..self
        }
    }

    /// The rest of the range behind `key`: what to ask for after a page that ended with it.
    #[must_use]
    pub fn after(self, key: &[u8]) -> Self {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        Self {
            start: start.into(),
            ..self
        }
    }

    /// Whether no key can be in the range.
    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The first key behind all keys that begin with `prefix`; `None` if nothing is behind them.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// What a [`Range`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The items, ascending by key.
    pub items: Vec<KeyValue>,
    /// Whether the range goes on behind the last item, which only a limit brings about.
    pub more: bool,
    /// The revision of which all of this is true: the one asked for, or else the newest.
    pub revision: Revision,
}

/// How large a key or a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes. Default 1 KiB, which is more than the longest name of an API object comes to.
    pub key_bytes: usize,
    /// Largest value, in bytes. Default 4 MiB.
    pub value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes: 1024,
            value_bytes: 4 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(prefix_end(b"/a/"), Some(Bytes::from_static(b"/a0")));
        assert_eq!(
            prefix_end(&[b'a', 255, 255]),
            Some(Bytes::from_static(b"b"))
        );
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn a_page_goes_on_behind_its_last_key() {
        let rest = Range::prefix("/a/").limit(2).at(7).after(b"/a/b");
        assert_eq!(rest.start, &b"/a/b\0"[..]);
        assert_eq!(rest.end, Some(Bytes::from_static(b"/a0")));
        assert_eq!((rest.limit, rest.at), (Some(2), Some(7)));
    }

    #[test]
    fn preconditions() {
        let put = |expect| Write::put("k", "", expect);
        let delete = |expect| Write::delete("k", expect);
        // (write, allowed when absent, when at revision 5)
        for (write, absent, present) in [
            (put(Expect::Anything), true, true),
            (put(Expect::Absent), true, false),
            (put(Expect::Revision(5)), false, true),
            (put(Expect::Revision(4)), false, false),
            (delete(Expect::Anything), false, true),
            (delete(Expect::Absent), false, false),
            (delete(Expect::Revision(5)), false, true),
            (delete(Expect::Revision(4)), false, false),
        ] {
            assert_eq!(write.allowed(None), absent, "{write:?} of an absent key");
            assert_eq!(
                write.allowed(Some(5)),
                present,
                "{write:?} of a key at revision 5"
            );
        }
    }
}
