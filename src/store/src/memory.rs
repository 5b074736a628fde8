//! The backend that forgets: for tests, and for clusters that live as long as their process.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CommitError, Committed, CompactError, Event, EventKind, KeyValue, Limits, Page, Range,
    ReadError, Revision, Store, Watch, WatchError, Write,
    head::Head,
    types::EMPTY,
    watch::{self, Chunk, Feed},
};

/// An empty [`Memory`] with the default limits.
pub fn memory() -> Memory {
    Memory::new(Limits::default())
}

/// A [`Store`] in memory. Nothing outlives it; otherwise it keeps the whole contract, history included.
#[derive(Debug)]
pub struct Memory {
    shared: Arc<Shared>,
    limits: Limits,
}

#[derive(Debug)]
struct Shared {
    data: Mutex<Data>,
    head: Head,
}

/// Everything at once, behind one short lock.
#[derive(Debug)]
struct Data {
    revision: Revision,
    compacted: Revision,
    closed: bool,
    /// Versions of a key, oldest first, never none.
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Every event after `log_start`, without a gap.
    log: VecDeque<Event>,
    log_start: Revision,
}

#[derive(Debug)]
struct Version {
    revision: Revision,
    /// `None` marks a deletion.
    kv: Option<KeyValue>,
}

impl Memory {
    /// An empty store with these limits.
    pub fn new(limits: Limits) -> Self {
        let data = Data {
            revision: EMPTY,
            compacted: 0,
            closed: false,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            log_start: EMPTY,
        };
        let shared = Shared {
            data: Mutex::new(data),
            head: Head::new(EMPTY),
        };
        Self {
            shared: Arc::new(shared),
            limits,
        }
    }
}

#[async_trait]
impl Store for Memory {
    async fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<(Option<KeyValue>, Revision), ReadError> {
        let data = self.shared.lock();
        let at = data.readable(at)?;
        let versions = data.keys.get(key).map_or(&[][..], Vec::as_slice);
        Ok((version_at(versions, at).cloned(), at))
    }

    async fn range(&self, range: Range) -> Result<Page, ReadError> {
        let data = self.shared.lock();
        let revision = data.readable(range.at)?;
        let mut page = Page {
            items: Vec::new(),
            more: false,
            revision,
        };
        if range.is_empty() {
            return Ok(page);
        }
        let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for versions in data
            .keys
            .range::<Bytes, _>((Bound::Included(&range.start), end))
            .map(|(_, versions)| versions)
        {
            let Some(kv) = version_at(versions, revision) else {
                continue;
            };
            if range.limit.is_some_and(|limit| page.items.len() >= limit) {
                page.more = true;
                break;
            }
            page.items.push(kv.clone());
        }
        Ok(page)
    }

    async fn commit(&self, write: Write) -> Result<Committed, CommitError> {
        self.limits.check(&write)?;
        let committed = self.shared.lock().apply(write)?;
        self.shared.head.advance(committed.revision);
        Ok(committed)
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, WatchError> {
        let data = self.shared.lock();
        if data.closed {
            return Err(WatchError::Closed);
        }
        if after < data.compacted {
            return Err(WatchError::Compacted {
                requested: after,
                compacted: data.compacted,
            });
        }
        drop(data);
        Ok(watch::watch(
            self.shared.clone(),
            &self.shared.head,
            prefix,
            after,
        ))
    }

    async fn compact(&self, to: Revision) -> Result<(), CompactError> {
        self.shared.lock().compact(to)
    }

    fn revision(&self) -> Revision {
        self.shared.lock().revision
    }

    fn compacted(&self) -> Revision {
        self.shared.lock().compacted
    }

    async fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.head.close();
    }
}

#[async_trait]
impl Feed for Shared {
    async fn events(&self, prefix: &[u8], after: Revision) -> Result<Chunk, WatchError> {
        let data = self.lock();
        if after < data.compacted {
            return Err(WatchError::Compacted {
                requested: after,
                compacted: data.compacted,
            });
        }
        let seen = usize::try_from(after.saturating_sub(data.log_start)).unwrap_or(usize::MAX);
        Ok(Chunk::filter(
            data.log.range(seen.min(data.log.len())..),
            prefix,
            after,
        ))
    }
}

impl Data {
    /// The revision to read at.
    fn readable(&self, at: Option<Revision>) -> Result<Revision, ReadError> {
        if self.closed {
            return Err(ReadError::Closed);
        }
        check_readable(at, self.revision, self.compacted)
    }

    fn apply(&mut self, write: Write) -> Result<Committed, CommitError> {
        if self.closed {
            return Err(CommitError::Closed);
        }
        let current = self
            .keys
            .get(write.key())
            .and_then(|versions| versions.last()?.kv.as_ref());
        if !write.allowed(current.map(|kv| kv.mod_revision)) {
            return Err(CommitError::Conflict {
                current: current.cloned(),
            });
        }
        let prev = current.cloned();
        let revision = self.revision + 1;
        let event = event(write, prev.clone(), revision);
        self.keys
            .entry(event.kv.key.clone())
            .or_default()
            .push(Version {
                revision,
                kv: (event.kind == EventKind::Put).then(|| event.kv.clone()),
            });
        self.log.push_back(event);
        self.revision = revision;
        Ok(Committed { revision, prev })
    }

    /// Only keys that changed in the compacted stretch can have versions to drop, and the log knows them.
    fn compact(&mut self, to: Revision) -> Result<(), CompactError> {
        if self.closed {
            return Err(CompactError::Closed);
        }
        if to > self.revision {
            return Err(CompactError::Future {
                requested: to,
                current: self.revision,
            });
        }
        self.compacted = self.compacted.max(to);
        while self.log_start < to
            && let Some(event) = self.log.pop_front()
        {
            self.log_start = event.kv.mod_revision;
            let key = &event.kv.key;
            let Some(versions) = self.keys.get_mut(key) else {
                continue;
            };
            let superseded = versions.partition_point(|version| version.revision < self.log_start);
            versions.drain(..superseded);
            if event.kind == EventKind::Delete {
                versions.retain(|version| version.revision != self.log_start);
            }
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
        Ok(())
    }
}

fn version_at(versions: &[Version], at: Revision) -> Option<&KeyValue> {
    let newer = versions.partition_point(|version| version.revision <= at);
    versions[..newer].last()?.kv.as_ref()
}

/// The revision to read at, if it can be read.
pub(crate) fn check_readable(
    at: Option<Revision>,
    current: Revision,
    compacted: Revision,
) -> Result<Revision, ReadError> {
    match at {
        None => Ok(current),
        Some(requested) if requested < compacted => Err(ReadError::Compacted {
            requested,
            compacted,
        }),
        Some(requested) if requested > current => Err(ReadError::Future { requested, current }),
        Some(requested) => Ok(requested),
    }
}

/// What `write` at `revision` does to a key that was `prev`. The write has been allowed, so a deletion has a `prev`.
pub(crate) fn event(write: Write, prev: Option<KeyValue>, revision: Revision) -> Event {
    let create_revision = prev.as_ref().map_or(revision, |prev| prev.create_revision);
    let (kind, key, value) = match write {
        Write::Put { key, value, .. } => (EventKind::Put, key, value),
        Write::Delete { key, .. } => (EventKind::Delete, key, Bytes::new()),
    };
    let kv = KeyValue {
        key,
        value,
        create_revision,
        mod_revision: revision,
    };
    Event { kind, kv, prev }
}
