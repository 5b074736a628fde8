//! What is in the file.
//!
//! Three tables of one redb database:
//!
//! | table | from | to |
//! |---|---|---|
//! | `index` | key, revision | the create revision of the key's version at that revision; 0 if it was deleted there |
//! | `log` | revision | the [`Record`] of what happened: key, value, where the previous version is |
//! | `state` | a name | a number: the format's version, the newest revision, how far history is compacted and swept |
//!
//! Values are written once, to the end of the log, whatever their key: writes that come together touch few pages. The
//! index is small, and answers for any revision which version of a key was valid.

use std::cmp::Ordering;

use bytes::Bytes;
use redb::{Key, TableDefinition, TypeName, Value};

use crate::{Event, EventKind, KeyValue, Revision, types::EMPTY};

/// The version of all of this. A file with a greater one is not opened.
pub(super) const FORMAT: u64 = 1;

pub(super) const INDEX: TableDefinition<VersionedKey, Revision> = TableDefinition::new("index");
pub(super) const LOG: TableDefinition<Revision, &[u8]> = TableDefinition::new("log");
pub(super) const STATE: TableDefinition<&str, u64> = TableDefinition::new("state");

/// What the index has in place of a create revision where a key was deleted.
pub(super) const DELETED: Revision = 0;

/// Names in the table `state`.
pub(super) mod state {
    pub(in super::super) const FORMAT: &str = "format";
    pub(in super::super) const REVISION: &str = "revision";
    pub(in super::super) const COMPACTED: &str = "compacted";
    pub(in super::super) const SWEPT: &str = "swept";
}

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The newest revision.
    pub(super) revision: Revision,
    /// The oldest revision that can be read.
    pub(super) compacted: Revision,
    /// The revision up to which compacted versions have been removed; at most `compacted`.
    pub(super) swept: Revision,
}

impl Position {
    pub(super) const START: Self = Self {
        revision: EMPTY,
        compacted: 0,
        swept: EMPTY,
    };

    /// Whether there is something to remove.
    pub(super) fn unswept(&self) -> bool {
        self.swept < self.compacted
    }
}

/// The key of the index: a key's bytes, then a revision in 8 bytes, big-endian.
///
/// Ordered by key, then by revision. That isn't the order of the bytes, since one key may be the beginning of another.
#[derive(Debug)]
pub(super) struct VersionedKey;

const REVISION_BYTES: usize = size_of::<Revision>();

impl VersionedKey {
    pub(super) fn encode(key: &[u8], revision: Revision) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(key.len() + REVISION_BYTES);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&revision.to_be_bytes());
        bytes
    }

    /// The key and the revision; `None` if this was never encoded.
    pub(super) fn decode(bytes: &[u8]) -> Option<(&[u8], Revision)> {
        let (key, revision) = bytes.split_last_chunk::<REVISION_BYTES>()?;
        Some((key, Revision::from_be_bytes(*revision)))
    }
}

impl Value for VersionedKey {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::new("vaquita::VersionedKey")
    }
}

impl Key for VersionedKey {
    fn compare(left: &[u8], right: &[u8]) -> Ordering {
        // Damaged keys are ordered too, somehow: whoever reads them finds out.
        let split = |bytes| Self::decode(bytes).unwrap_or((bytes, 0));
        split(left).cmp(&split(right))
    }
}

/// What happened at a revision.
///
/// In the file: one byte for the kind, the create revision and the previous revision in 8 bytes each, the key's length
/// in 4, then key and value. Numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: EventKind,
    pub(super) create_revision: Revision,
    /// The revision of the version that this one replaced or deleted; 0 if there was none.
    pub(super) prev_revision: Revision,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

impl<'a> Record<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        Self {
            kind: event.kind,
            create_revision: event.kv.create_revision,
            prev_revision: event.prev.as_ref().map_or(0, |prev| prev.mod_revision),
            key: &event.kv.key,
            value: &event.kv.value,
        }
    }

    /// Bytes that [`Record::encode`] fills.
    pub(super) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.key.len() + self.value.len()
    }

    /// Writes the record to `out`, which has just the right length.
    pub(super) fn encode(&self, out: &mut [u8]) {
        // Keys are limited to far less than 4 GiB.
        let key_len = u32::try_from(self.key.len()).unwrap_or(u32::MAX);
        let kind = match self.kind {
            EventKind::Put => PUT,
            EventKind::Delete => DELETE,
        };
        let mut rest = out;
        for part in [
            &[kind][..],
            &self.create_revision.to_le_bytes(),
            &self.prev_revision.to_le_bytes(),
            &key_len.to_le_bytes(),
            self.key,
            self.value,
        ] {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
    }

    /// Reads a record; `None` if this was never encoded.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (create_revision, rest) = rest.split_first_chunk()?;
        let (prev_revision, rest) = rest.split_first_chunk()?;
        let (key_len, rest) = rest.split_first_chunk()?;
        let key_len = usize::try_from(u32::from_le_bytes(*key_len)).ok()?;
        let (key, value) = rest.split_at_checked(key_len)?;
        Some(Self {
            kind: match *kind {
                PUT => EventKind::Put,
                DELETE => EventKind::Delete,
                _ => return None,
            },
            create_revision: Revision::from_le_bytes(*create_revision),
            prev_revision: Revision::from_le_bytes(*prev_revision),
            key,
            value,
        })
    }

    /// Key and value with a life of their own, in one allocation.
    pub(super) fn to_owned(self, mod_revision: Revision) -> KeyValue {
        let mut bytes = Vec::with_capacity(self.key.len() + self.value.len());
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.value);
        let mut key = Bytes::from(bytes);
        let value = key.split_off(self.key.len());
        KeyValue {
            key,
            value,
            create_revision: self.create_revision,
            mod_revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_keys_are_ordered_by_key_and_then_by_revision(
            left: (Vec<u8>, Revision),
            right: (Vec<u8>, Revision),
        ) {
            let encode = |(key, revision): &(Vec<u8>, Revision)| VersionedKey::encode(key, *revision);
            prop_assert_eq!(VersionedKey::compare(&encode(&left), &encode(&right)), left.cmp(&right));
            let encoded = encode(&left);
            prop_assert_eq!(VersionedKey::decode(&encoded), Some((&left.0[..], left.1)));
        }

        #[test]
        fn records_come_back(key: Vec<u8>, value: Vec<u8>, create: u64, prev: u64, deleted: bool) {
            let record = Record {
                kind: if deleted { EventKind::Delete } else { EventKind::Put },
                create_revision: create,
                prev_revision: prev,
                key: &key,
                value: &value,
            };
            let mut bytes = vec![0; record.encoded_len()];
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(left: Vec<u8>, right: Vec<u8>) {
            let _ = Record::decode(&left);
            let _ = VersionedKey::decode(&left);
            prop_assert_eq!(VersionedKey::compare(&left, &right), VersionedKey::compare(&right, &left).reverse());
        }
    }
}
