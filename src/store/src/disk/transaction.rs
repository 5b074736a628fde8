//! Writing: what one transaction does to the tables.

use redb::{ReadableTable as _, Table, WriteTransaction};

use super::{
    error::DiskError,
    format::{DELETED, INDEX, LOG, Position, Record, STATE, VersionedKey, state},
    snapshot::{decode_key, decode_record},
};
use crate::{CommitError, Event, EventKind, KeyValue, Revision, Write, memory};

/// The open tables of a transaction, and where it stands.
pub(super) struct Tables<'t> {
    pub(super) position: Position,
    index: Table<'t, VersionedKey, Revision>,
    log: Table<'t, Revision, &'static [u8]>,
}

/// What came of a write: an event, or the reason why there is none.
pub(super) type Outcome = Result<Event, CommitError>;

impl<'t> Tables<'t> {
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        position: Position,
    ) -> Result<Self, DiskError> {
        Ok(Self {
            position,
            index: transaction.open_table(INDEX)?,
            log: transaction.open_table(LOG)?,
        })
    }

    /// Does `write`, if the key's state allows it. Fails as a whole only when the storage does.
    pub(super) fn apply(&mut self, write: &Write) -> Result<Outcome, DiskError> {
        let current = self.current(write.key())?;
        let prev = current.map(|revision| self.load(revision)).transpose()?;
        if !write.allowed(current) {
            return Ok(Err(CommitError::Conflict { current: prev }));
        }
        let revision = self.position.revision + 1;
        let event = memory::event(write.clone(), prev, revision);

        let record = Record::of(&event);
        record.encode(
            self.log
                .insert_reserve(revision, record.encoded_len())?
                .as_mut(),
        );
        let create_revision = match event.kind {
            EventKind::Put => event.kv.create_revision,
            EventKind::Delete => DELETED,
        };
        self.index.insert(
            &VersionedKey::encode(&event.kv.key, revision)[..],
            create_revision,
        )?;
        self.position.revision = revision;
        Ok(Ok(event))
    }

    /// The mod revision of a key that exists.
    fn current(&self, key: &[u8]) -> Result<Option<Revision>, DiskError> {
        let (first, last) = (
            VersionedKey::encode(key, 0),
            VersionedKey::encode(key, Revision::MAX),
        );
        let Some(newest) = self.index.range(&first[..]..=&last[..])?.next_back() else {
            return Ok(None);
        };
        let (key, create_revision) = newest?;
        let (_, revision) = decode_key(key.value())?;
        Ok((create_revision.value() != DELETED).then_some(revision))
    }

    fn load(&self, revision: Revision) -> Result<KeyValue, DiskError> {
        let record = self
            .log
            .get(revision)?
            .ok_or(DiskError::Damaged("the log lacks a revision"))?;
        decode_record(record.value()).map(|record| record.to_owned(revision))
    }

    /// Removes versions that compaction has made unreachable: those that one of the next `most` revisions replaced.
    ///
    /// A version dies by the event that replaces it, so the events of the compacted stretch, in order, name all that
    /// there is to remove; and a deletion, once nobody can read what was before it, is as good as nothing.
    pub(super) fn sweep(&mut self, most: u64) -> Result<(), DiskError> {
        let Position {
            swept, compacted, ..
        } = self.position;
        let through = compacted.min(swept.saturating_add(most));
        let mut dead = Vec::new();
        for record in self.log.range(swept.saturating_add(1)..=through)? {
            let (revision, record) = record?;
            let record = decode_record(record.value())?;
            if record.prev_revision != 0 {
                dead.push((
                    record.prev_revision,
                    VersionedKey::encode(record.key, record.prev_revision),
                ));
            }
            if record.kind == EventKind::Delete {
                dead.push((
                    revision.value(),
                    VersionedKey::encode(record.key, revision.value()),
                ));
            }
        }
        for (revision, key) in dead {
            self.log.remove(revision)?;
            self.index.remove(&key[..])?;
        }
        self.position.swept = through;
        Ok(())
    }
}

/// Writes `position` down, as far as it differs from `before`.
pub(super) fn save_position(
    transaction: &WriteTransaction,
    position: Position,
    before: Option<Position>,
) -> Result<(), DiskError> {
    let rows = |position: Position| {
        [
            (state::REVISION, position.revision),
            (state::COMPACTED, position.compacted),
            (state::SWEPT, position.swept),
        ]
    };
    let mut table = transaction.open_table(STATE)?;
    for (index, (name, value)) in rows(position).into_iter().enumerate() {
        if before.is_none_or(|before| rows(before)[index].1 != value) {
            table.insert(name, value)?;
        }
    }
    Ok(())
}
