//! One object as bytes: how it is stored, stamped with its revision, and framed for watchers.
//!
//! In the store a value is a 4-byte big-endian offset and then the object as JSON, without its resourceVersion (nobody
//! can know that before the write is committed). The offset points just behind `"metadata":{`. When the value enters
//! the cache, `"resourceVersion":"N",` is spliced in there while the bytes are copied into a watch frame:
//!
//! ```text
//! {"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"7","name":...}}\n
//! ```
//!
//! That is the only copy there is: GET, LIST and WATCH hand on slices of it.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::Value;
use vaquita_api::Object;
use vaquita_store::Revision;

use super::attributes::{Attributes, Fields};

const OFFSET_BYTES: usize = 4;
const FRAME_END: &[u8] = b"}\n";

/// What happened to an object, as watchers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It was there before, in another state.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    /// The type of an event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// The start of a watch frame, up to the object.
    pub fn frame_start(self) -> &'static [u8] {
        match self {
            Self::Added => br#"{"type":"ADDED","object":"#,
            Self::Modified => br#"{"type":"MODIFIED","object":"#,
            Self::Deleted => br#"{"type":"DELETED","object":"#,
        }
    }
}

/// A stored value that is not what we write: the store is damaged, or somebody else wrote to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored value is not an encoded object")]
pub struct Malformed;

/// Encodes an object for the store. The metadata's resourceVersion, if there is one, is left out.
///
/// apiVersion, kind and metadata come first, as people expect them when they read an answer.
pub fn encode(object: &Object) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&[0; OFFSET_BYTES]);
    out.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            field(&mut out, key, value)?;
        }
    }
    out.extend_from_slice(b"\"metadata\":{");
    let offset = u32::try_from(out.len() - OFFSET_BYTES).unwrap_or(u32::MAX);
    if let Some(Value::Object(metadata)) = object.get("metadata") {
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            field(&mut out, key, value)?;
        }
    }
    pop_comma(&mut out);
    out.extend_from_slice(b"},");
    for (key, value) in object
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"))
    {
        field(&mut out, key, value)?;
    }
    pop_comma(&mut out);
    out.push(b'}');
    out[..OFFSET_BYTES].copy_from_slice(&offset.to_be_bytes());
    Ok(out.into())
}

fn field(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value)?;
    out.push(b',');
    Ok(())
}

fn pop_comma(out: &mut Vec<u8>) {
    if out.last() == Some(&b',') {
        out.pop();
    }
}

/// An object at one revision.
#[derive(Debug)]
pub struct Entry {
    /// The key in the store.
    pub key: Bytes,
    /// The revision that wrote this state: the object's resourceVersion.
    pub revision: Revision,
    frame: Bytes,
    change: Change,
    /// Where the resourceVersion stands in the frame.
    stamp: Range<usize>,
    attributes: OnceLock<Attributes>,
    parsed: OnceLock<Arc<Object>>,
    /// In protobuf, without an envelope.
    message: OnceLock<Bytes>,
}

impl Entry {
    /// Stamps a stored value with its revision; 0 stands for none, and is not written into the object.
    pub fn from_stored(
        key: Bytes,
        value: &[u8],
        revision: Revision,
        change: Change,
    ) -> Result<Self, Malformed> {
        let (offset, json) = value.split_first_chunk::<OFFSET_BYTES>().ok_or(Malformed)?;
        let offset = usize::try_from(u32::from_be_bytes(*offset)).map_err(|_| Malformed)?;
        let (head, tail) = json.split_at_checked(offset).ok_or(Malformed)?;
        if !head.ends_with(b"\"metadata\":{") || !tail.ends_with(b"}") {
            return Err(Malformed);
        }
        Ok(Self::assemble(key, head, tail, revision, change))
    }

    /// The last state of an object that was deleted by `revision`, which becomes its resourceVersion.
    #[must_use]
    pub fn deleted(&self, revision: Revision) -> Self {
        let (head, tail) = self.unstamped();
        Self::assemble(self.key.clone(), head, tail, revision, Change::Deleted)
    }

    fn assemble(key: Bytes, head: &[u8], tail: &[u8], revision: Revision, change: Change) -> Self {
        let mut number = [0; 20];
        let number = decimal(revision, &mut number);
        let start = change.frame_start();
        let mut frame =
            Vec::with_capacity(start.len() + head.len() + 22 + number.len() + tail.len() + 2);
        frame.extend_from_slice(start);
        frame.extend_from_slice(head);
        let stamp_start = frame.len();
        if revision != 0 {
            frame.extend_from_slice(b"\"resourceVersion\":\"");
            frame.extend_from_slice(number);
            frame.push(b'"');
            if !tail.starts_with(b"}") {
                frame.push(b',');
            }
        }
        let stamp = stamp_start..frame.len();
        frame.extend_from_slice(tail);
        frame.extend_from_slice(FRAME_END);
        Self {
            key,
            revision,
            frame: frame.into(),
            change,
            stamp,
            attributes: OnceLock::new(),
            parsed: OnceLock::new(),
            message: OnceLock::new(),
        }
    }

    /// What the write that made this state did to the object.
    pub fn change(&self) -> Change {
        self.change
    }

    /// The object as JSON, resourceVersion included.
    pub fn object(&self) -> Bytes {
        self.frame
            .slice(self.change.frame_start().len()..self.frame.len() - FRAME_END.len())
    }

    /// The object's JSON, borrowed.
    pub fn json(&self) -> &[u8] {
        &self.frame[self.change.frame_start().len()..self.frame.len() - FRAME_END.len()]
    }

    /// The object as a value.
    pub fn value(&self) -> Result<Object, Malformed> {
        serde_json::from_slice(self.json()).map_err(|_| Malformed)
    }

    /// The object as a value that is kept from then on: for the few that are looked at again and again.
    pub fn parsed(&self) -> Result<Arc<Object>, Malformed> {
        if let Some(parsed) = self.parsed.get() {
            return Ok(parsed.clone());
        }
        let parsed = Arc::new(self.value()?);
        Ok(self.parsed.get_or_init(|| parsed).clone())
    }

    /// The object in protobuf, if somebody has left it here.
    pub fn message(&self) -> Option<&Bytes> {
        self.message.get()
    }

    /// Leaves the object's form in protobuf here.
    pub fn keep_message(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        self.message.get_or_init(make).clone()
    }

    /// The ready frame, if it is one for `change`.
    pub fn frame(&self, change: Change) -> Option<&Bytes> {
        (self.change == change).then_some(&self.frame)
    }

    /// Appends a frame for `change` to `out`.
    pub fn write_frame(&self, change: Change, out: &mut Vec<u8>) {
        if self.change == change {
            out.extend_from_slice(&self.frame);
        } else {
            out.extend_from_slice(change.frame_start());
            out.extend_from_slice(self.json());
            out.extend_from_slice(FRAME_END);
        }
    }

    /// How many bytes the entry holds.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// What selectors ask for, read from the object the first time somebody asks.
    pub fn attributes(&self, fields: &Fields) -> Cow<'_, Attributes> {
        let read = || {
            let object = self.value().unwrap_or_default();
            Attributes::of(&object, fields)
        };
        let first = self.attributes.get_or_init(read);
        if first.are_of(fields) {
            Cow::Borrowed(first)
        } else {
            // The resource's fields are no longer those of when somebody first asked.
            Cow::Owned(read())
        }
    }

    /// This state with another object in its place: the same one as another resource shows it.
    pub fn shown_as(&self, object: &Object) -> Result<Self, serde_json::Error> {
        let stored = encode(object)?;
        let shown = Self::from_stored(self.key.clone(), &stored, self.revision, self.change);
        shown.map_err(serde::ser::Error::custom)
    }

    /// Whether `stored`, an encoded object, is this state, whatever its revision.
    pub fn is(&self, stored: &[u8]) -> bool {
        let Some(json) = stored.get(OFFSET_BYTES..) else {
            return false;
        };
        let (head, tail) = self.unstamped();
        json.split_at_checked(head.len()) == Some((head, tail))
    }

    /// What stands before and behind the resourceVersion.
    fn unstamped(&self) -> (&[u8], &[u8]) {
        let start = self.change.frame_start().len();
        let end = self.frame.len() - FRAME_END.len();
        (
            &self.frame[start..self.stamp.start],
            &self.frame[self.stamp.end..end],
        )
    }
}

/// `number` in decimal, written into `buffer`.
fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        // The remainder is below 10.
        #[allow(clippy::cast_possible_truncation)]
        let digit = (number % 10) as u8;
        buffer[at] = b'0' + digit;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    fn stamped(value: Value, revision: Revision) -> Entry {
        let stored = encode(&object(value)).unwrap();
        Entry::from_stored(Bytes::from_static(b"k"), &stored, revision, Change::Added).unwrap()
    }

    #[test]
    fn a_stamped_object_is_the_object_with_its_revision() {
        let entry = stamped(
            json!({"kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}, "data": {"k": "v"}}),
            42,
        );
        let expected = json!({"kind": "ConfigMap", "metadata": {"name": "a", "uid": "u", "resourceVersion": "42"}, "data": {"k": "v"}});
        assert_eq!(Value::Object(entry.value().unwrap()), expected);
        let frame: Value = serde_json::from_slice(entry.frame(Change::Added).unwrap()).unwrap();
        assert_eq!(frame, json!({"type": "ADDED", "object": expected}));
        assert!(entry.frame(Change::Modified).is_none());
    }

    #[test]
    fn an_old_revision_does_not_get_into_the_store() {
        let entry = stamped(
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            2,
        );
        assert_eq!(entry.value().unwrap()["metadata"]["resourceVersion"], "2");
        assert_eq!(
            String::from_utf8_lossy(entry.json())
                .matches("resourceVersion")
                .count(),
            1
        );
    }

    #[test]
    fn a_deleted_state_carries_the_revision_of_its_deletion() {
        let entry = stamped(json!({"metadata": {"name": "a"}}), 9).deleted(1000);
        assert_eq!(
            entry.value().unwrap()["metadata"],
            json!({"name": "a", "resourceVersion": "1000"})
        );
        let mut out = Vec::new();
        entry.write_frame(Change::Deleted, &mut out);
        assert_eq!(
            serde_json::from_slice::<Value>(&out).unwrap()["type"],
            "DELETED"
        );
    }

    #[test]
    fn the_same_state_is_recognized_whatever_its_revision() {
        let value = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
        let entry = stamped(value.clone(), 9);
        assert!(entry.is(&encode(&object(value)).unwrap()));
        assert!(
            !entry.is(&encode(&object(
                json!({"metadata": {"name": "a"}, "data": {"k": "w"}})
            ))
            .unwrap())
        );
        assert!(!entry.is(b""));
    }

    #[test]
    fn objects_without_anything_are_still_json() {
        assert_eq!(
            Value::Object(stamped(json!({}), 3).value().unwrap()),
            json!({"metadata": {"resourceVersion": "3"}})
        );
        assert_eq!(stamped(json!({"data": {}}), 3).value().unwrap().len(), 2);
    }

    #[test]
    fn foreign_values_are_refused() {
        for value in [
            &b""[..],
            b"\0\0",
            b"\0\0\0\x05{}",
            b"\xff\xff\xff\xff{}",
            b"\0\0\0\x01{}",
        ] {
            let entry = Entry::from_stored(Bytes::new(), value, 1, Change::Added);
            assert_eq!(entry.err(), Some(Malformed), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn stamping_loses_nothing(
            name in "\\PC{0,12}",
            data in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,16}", 0..4),
            revision in any::<u64>(),
        ) {
            let value = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": name}, "data": data});
            let mut expected = value.clone();
            expected["metadata"]["resourceVersion"] = revision.to_string().into();
            prop_assert_eq!(Value::Object(stamped(value, revision).value().unwrap()), expected);
        }
    }
}
