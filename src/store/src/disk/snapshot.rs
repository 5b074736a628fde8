//! Reading: all that one moment of the file can tell.

use redb::{Database, ReadOnlyTable, ReadableDatabase as _};

use super::{
    error::DiskError,
    format::{DELETED, INDEX, LOG, Position, Record, VersionedKey},
};
use crate::{
    Event, EventKind, KeyValue, Page, Range, Revision,
    types::EMPTY,
    watch::{BATCH_EVENTS, Chunk},
};

/// Most bytes of keys and values in one chunk of history.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// The store as it was after some transaction. Later writes do not change it.
pub(super) struct Snapshot {
    pub(super) position: Position,
    index: ReadOnlyTable<VersionedKey, Revision>,
    log: ReadOnlyTable<Revision, &'static [u8]>,
}

/// A version of a key that exists.
#[derive(Debug, Clone, Copy)]
struct Version {
    revision: Revision,
    create_revision: Revision,
}

impl Snapshot {
    /// The newest state of `db`, which stands at `position`.
    pub(super) fn take(db: &Database, position: Position) -> Result<Self, DiskError> {
        let transaction = db.begin_read()?;
        Ok(Self {
            position,
            index: transaction.open_table(INDEX)?,
            log: transaction.open_table(LOG)?,
        })
    }

    /// The key at revision `at`, which can be read.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Result<Option<KeyValue>, DiskError> {
        let (first, last) = (VersionedKey::encode(key, 0), VersionedKey::encode(key, at));
        let Some(newest) = self.index.range(&first[..]..=&last[..])?.next_back() else {
            return Ok(None);
        };
        let (found, create_revision) = newest?;
        let (_, revision) = decode_key(found.value())?;
        match create_revision.value() {
            DELETED => Ok(None),
            create_revision => self
                .load(
                    key,
                    Version {
                        revision,
                        create_revision,
                    },
                )
                .map(Some),
        }
    }

    /// The range at revision `at`, which can be read.
    pub(super) fn range(&self, range: &Range, at: Revision) -> Result<Page, DiskError> {
        let mut page = Page {
            items: Vec::new(),
            more: false,
            revision: at,
        };
        if range.is_empty() {
            return Ok(page);
        }
        let start = VersionedKey::encode(&range.start, 0);
        let end = range.end.as_ref().map(|end| VersionedKey::encode(end, 0));
        let versions = match &end {
            Some(end) => self.index.range(&start[..]..&end[..])?,
            None => self.index.range(&start[..]..)?,
        };
        // The versions of a key follow each other, oldest first: the last one that is not too new is its state.
        let mut key = Vec::new();
        let mut state = None;
        for version in versions {
            let (found, create_revision) = version?;
            let (found, revision) = decode_key(found.value())?;
            if found != key {
                if !self.push(&mut page, range.limit, &key, state.take())? {
                    return Ok(page);
                }
                key.clear();
                key.extend_from_slice(found);
            }
            if revision <= at {
                let create_revision = create_revision.value();
                state = (create_revision != DELETED).then_some(Version {
                    revision,
                    create_revision,
                });
            }
        }
        self.push(&mut page, range.limit, &key, state)?;
        Ok(page)
    }

    /// Adds a key to the page, if it exists. False when the page was full.
    fn push(
        &self,
        page: &mut Page,
        limit: Option<usize>,
        key: &[u8],
        state: Option<Version>,
    ) -> Result<bool, DiskError> {
        let Some(version) = state else {
            return Ok(true);
        };
        if limit.is_some_and(|limit| page.items.len() >= limit) {
            page.more = true;
            return Ok(false);
        }
        page.items.push(self.load(key, version)?);
        Ok(true)
    }

    /// The next events after revision `after`, which is not compacted, of keys that begin with `prefix`.
    pub(super) fn events(&self, prefix: &[u8], after: Revision) -> Result<Chunk, DiskError> {
        let mut chunk = Chunk {
            events: Vec::new(),
            through: after.max(EMPTY),
        };
        let mut bytes = 0;
        for record in self.log.range(chunk.through.saturating_add(1)..)? {
            let (revision, record) = record?;
            let revision = revision.value();
            if revision != chunk.through + 1 {
                return Err(DiskError::Damaged("the log has a gap"));
            }
            chunk.through = revision;
            let record = decode_record(record.value())?;
            if !record.key.starts_with(prefix) {
                continue;
            }
            let event = self.event(record, revision)?;
            bytes += event.size();
            chunk.events.push(event);
            if chunk.events.len() == BATCH_EVENTS || bytes >= CHUNK_BYTES {
                return Ok(chunk);
            }
        }
        if chunk.through < self.position.revision {
            return Err(DiskError::Damaged("the log is too short"));
        }
        Ok(chunk)
    }

    fn event(&self, record: Record<'_>, revision: Revision) -> Result<Event, DiskError> {
        let prev = match record.prev_revision {
            0 => None,
            prev => Some(self.record(prev, |record| record.to_owned(prev))?),
        };
        Ok(Event {
            kind: record.kind,
            kv: record.to_owned(revision),
            prev,
        })
    }

    fn load(&self, key: &[u8], version: Version) -> Result<KeyValue, DiskError> {
        self.record(version.revision, |record| {
            let fits = record.kind == EventKind::Put
                && record.key == key
                && record.create_revision == version.create_revision;
            fits.then(|| record.to_owned(version.revision))
        })?
        .ok_or(DiskError::Damaged("the index and the log disagree"))
    }

    fn record<T>(
        &self,
        revision: Revision,
        read: impl FnOnce(Record<'_>) -> T,
    ) -> Result<T, DiskError> {
        let record = self
            .log
            .get(revision)?
            .ok_or(DiskError::Damaged("the log lacks a revision"))?;
        decode_record(record.value()).map(read)
    }
}

pub(super) fn decode_key(bytes: &[u8]) -> Result<(&[u8], Revision), DiskError> {
    VersionedKey::decode(bytes).ok_or(DiskError::Damaged("a key of the index cannot be read"))
}

pub(super) fn decode_record(bytes: &[u8]) -> Result<Record<'_>, DiskError> {
    Record::decode(bytes).ok_or(DiskError::Damaged("a record of the log cannot be read"))
}
