//! `application/vnd.kubernetes.protobuf`, in which Go clients send typed objects and like to be answered.
//!
//! A body is four magic bytes and a `runtime.Unknown` message, which holds the type's name and the object. The object's
//! types are those of the JSON form, walked along their [`Schema`]; only the fields' numbers have to be known besides
//! (`numbers.txt`). [`decode`] makes JSON that goes the same way as a JSON body. [`encode`] writes a single object; for
//! lists and watches [`message`] writes what is the same in all answers once, and [`list`] and [`event`] put it in frames.

mod numbers;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
mod wire;
mod write;

use std::sync::LazyLock;

use serde_json::{Map, Number, Value, json};

use self::numbers::{Numbers, Target};
use self::wire::{Payload, Sink, fields};
use self::write::Writer;
use crate::Object;
use crate::body;
use crate::schema::{Builder, Schema, SchemaOr, Struct, Type};
use crate::status::Status;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches: a row of [`event`]s.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8; 4] = b"k8s\0";
/// How deep messages may be nested; the API's own types stay far below.
const DEPTH_MAX: usize = 64;

/// Why a body is no object in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The magic bytes are missing.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoMagic,
    /// A message ends in the middle of a field, or a length or tag makes no sense.
    #[error("proto: malformed message")]
    Malformed,
    /// A field has another form than its type.
    #[error("proto: wrong wireType")]
    WrongType,
    /// A string is not UTF-8, or embedded JSON is no JSON.
    #[error("proto: invalid contents of a field")]
    Contents,
    /// Messages in messages in messages.
    #[error("proto: nested too deeply")]
    TooDeep,
    /// The envelope says that the object is compressed or encrypted.
    #[error("proto: unsupported content encoding")]
    Encoding,
}

impl From<ProtobufError> for crate::status::Status {
    fn from(error: ProtobufError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Reads an object of the type that `schema` describes. `api_version` (`v1`, `rbac.authorization.k8s.io/v1`) says whose
/// types these are. The result has `apiVersion` and `kind` as the envelope names them.
pub fn decode(bytes: &[u8], schema: &Schema, api_version: &str) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(bytes)?;
    let reader = Reader {
        schema,
        numbers: Numbers::of(api_version),
    };
    let Some(root) = schema.structure(schema.root()) else {
        return Err(ProtobufError::WrongType);
    };
    let mut object = Map::new();
    reader.message(root, &root.name, envelope.raw, &mut object, 0)?;
    for (field, value) in [
        ("apiVersion", envelope.api_version),
        ("kind", envelope.kind),
    ] {
        if !value.is_empty() {
            object.insert(field.to_owned(), value.into());
        }
    }
    Ok(Value::Object(object))
}

/// Writes an object, `apiVersion` and `kind` included, in its envelope. `schema` is that of its kind.
///
/// A field that has no number is left out: there are none in the built-in kinds but a few that are newer than the table.
pub fn encode(object: &Object, schema: &Schema) -> Vec<u8> {
    let text = |field| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    envelope(api_version, kind, &message(object, schema, api_version))
}

/// Writes an object without its envelope, and so without its type: as the item of a [`list`], or for an [`envelope`].
pub fn message(object: &Object, schema: &Schema, api_version: &str) -> Vec<u8> {
    let mut sink = Sink::default();
    if let Some(root) = schema.structure(schema.root()) {
        let numbers = Numbers::of(api_version);
        Writer { schema, numbers }.message(root, &root.name, object, &mut sink);
    }
    sink.into_bytes()
}

/// Puts a message into the envelope of a body.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut sink = Sink::default();
    sink.raw(MAGIC);
    sink.nested(1, |sink| {
        sink.bytes(1, api_version.as_bytes());
        sink.bytes(2, kind.as_bytes());
    });
    sink.bytes(2, message);
    sink.bytes(3, b"");
    sink.bytes(4, b"");
    sink.into_bytes()
}

/// The metadata of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListMeta<'l> {
    /// The revision that the list shows.
    pub resource_version: &'l str,
    /// What to ask for the next page by; "" on the last.
    pub continue_token: &'l str,
    /// How many more there are.
    pub remaining: Option<i64>,
}

/// Writes a list of `messages` in its envelope: `kind` is the list's, such as `PodList`.
pub fn list<'m>(
    api_version: &str,
    kind: &str,
    meta: ListMeta<'_>,
    messages: impl IntoIterator<Item = &'m [u8]>,
) -> Vec<u8> {
    let mut sink = Sink::default();
    sink.nested(1, |sink| {
        sink.bytes(2, meta.resource_version.as_bytes());
        sink.bytes(3, meta.continue_token.as_bytes());
        if let Some(remaining) = meta.remaining {
            sink.integer(4, remaining);
        }
    });
    for message in messages {
        sink.bytes(2, message);
    }
    envelope(api_version, kind, &sink.into_bytes())
}

/// Writes an event of a watch as a frame: its length in four bytes, big-endian, and a `WatchEvent` without an envelope.
/// `object` has one. The type is `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
pub fn event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut sink = Sink::default();
    sink.raw(&[0; 4]);
    sink.bytes(1, event_type.as_bytes());
    sink.nested(2, |sink| sink.bytes(1, object));
    let mut frame = sink.into_bytes();
    // Objects are far smaller than the four gigabytes which would not fit.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes a Status in its envelope.
pub fn status(status: &Status) -> Vec<u8> {
    static SCHEMA: LazyLock<Schema> =
        LazyLock::new(Schema::of::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>);
    match status.to_value() {
        Value::Object(object) => encode(&object, &SCHEMA),
        _ => envelope("v1", "Status", &[]),
    }
}

/// The shape of `meta.k8s.io/v1` `PartialObjectMetadata`, for [`encode`] and [`message`].
pub fn partial_metadata() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
        let mut builder = Builder::new();
        let root = builder.resource("PartialObjectMetadata", Vec::new(), false);
        builder.finish(Builder::granular(root))
    });
    &SCHEMA
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'b> {
    api_version: &'b str,
    kind: &'b str,
    raw: &'b [u8],
}

impl<'b> Envelope<'b> {
    fn read(bytes: &'b [u8]) -> Result<Self, ProtobufError> {
        let unknown = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
        let mut envelope = Self::default();
        for field in fields(unknown) {
            match field? {
                (1, Payload::Bytes(type_meta)) => {
                    for field in fields(type_meta) {
                        match field? {
                            (1, payload) => envelope.api_version = payload.text()?,
                            (2, payload) => envelope.kind = payload.text()?,
                            _ => {}
                        }
                    }
                }
                (2, Payload::Bytes(raw)) => envelope.raw = raw,
                (3, payload) if !payload.text()?.is_empty() => return Err(ProtobufError::Encoding),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

struct Reader<'s> {
    schema: &'s Schema,
    numbers: Numbers,
}

impl<'s> Reader<'s> {
    /// Reads the fields of `message` into `object`, whose type is `structure`. The two names differ for messages whose
    /// fields stand among those of their parent in JSON.
    fn message(
        &self,
        structure: &'s Struct,
        message: &str,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::TooDeep);
        }
        for field in fields(bytes) {
            let (number, payload) = field?;
            match self.numbers.find(message, number) {
                Some(Target::Embedded(inner)) => {
                    self.message(structure, inner, payload.bytes()?, object, depth + 1)?;
                }
                Some(Target::Field(name)) => {
                    if let Some(field) = structure.field(name) {
                        let slot = object.entry(name).or_insert(Value::Null);
                        self.field(&field.ty, payload, slot, depth + 1)?;
                    }
                }
                // A field that is newer than this server.
                None => {}
            }
        }
        Ok(())
    }

    /// Reads one occurrence of a field into `slot`: lists and maps grow with each, anything else is replaced.
    fn field(
        &self,
        ty: &'s Type,
        payload: Payload<'_>,
        slot: &mut Value,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        match ty {
            Type::List(item, _) => {
                let value = self.value(item, payload, depth)?;
                match slot {
                    Value::Array(items) => items.push(value),
                    empty => *empty = Value::Array(vec![value]),
                }
            }
            Type::Map(entry, _) => {
                let (key, value) = self.entry(entry, payload.bytes()?, depth)?;
                match slot {
                    Value::Object(map) => drop(map.insert(key, value)),
                    empty => *empty = Value::Object(Map::from_iter([(key, value)])),
                }
            }
            single => *slot = self.value(single, payload, depth)?,
        }
        Ok(())
    }

    fn entry(
        &self,
        ty: &'s Type,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        for field in fields(bytes) {
            match field? {
                (1, payload) => payload.text()?.clone_into(&mut key),
                (2, payload) => value = Some(self.value(ty, payload, depth)?),
                _ => {}
            }
        }
        Ok((key, value.unwrap_or(Value::Null)))
    }

    fn value(
        &self,
        ty: &'s Type,
        payload: Payload<'_>,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        Ok(match ty {
            Type::String => payload.text()?.into(),
            Type::Bool => (payload.integer()? != 0).into(),
            Type::Int32 | Type::Int64 => payload.integer()?.into(),
            Type::Float => Number::from_f64(payload.double()?).map_or(Value::Null, Value::Number),
            Type::Time => time(payload.bytes()?, crate::meta::time)?,
            Type::MicroTime => time(payload.bytes()?, crate::meta::micro_time)?,
            Type::Quantity => quantity(payload.bytes()?)?,
            Type::IntOrString => int_or_string(payload.bytes()?)?,
            Type::Bytes => json!(k8s_openapi::ByteString(payload.bytes()?.to_vec())),
            Type::Any => embedded_json(payload.bytes()?)?,
            // Only as the value of a map: a message that wraps the list.
            Type::List(item, _) => {
                let mut items = Vec::new();
                for field in fields(payload.bytes()?) {
                    items.push(self.value(item, field?.1, depth)?);
                }
                items.into()
            }
            Type::Map(..) => return Err(ProtobufError::WrongType),
            Type::SchemaOr(or, inner) => self.alternative(*or, inner, payload.bytes()?, depth)?,
            Type::Struct(id, _) => {
                let structure = self.schema.get(*id);
                let mut object = Map::new();
                self.message(
                    structure,
                    &structure.name,
                    payload.bytes()?,
                    &mut object,
                    depth,
                )?;
                Value::Object(object)
            }
        })
    }
}

impl<'s> Reader<'s> {
    /// A schema in the first or second field, or what stands for it in the other one.
    fn alternative(
        &self,
        or: SchemaOr,
        inner: &'s Type,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let mut found = Value::Null;
        let mut others = Vec::new();
        for field in fields(bytes) {
            match (or, field?) {
                (SchemaOr::Bool, (1, payload)) if !found.is_object() => {
                    found = (payload.integer()? != 0).into();
                }
                (SchemaOr::Bool, (2, payload))
                | (SchemaOr::List | SchemaOr::Names, (1, payload)) => {
                    found = self.value(inner, payload, depth + 1)?;
                }
                (SchemaOr::List, (2, payload)) => {
                    others.push(self.value(inner, payload, depth + 1)?);
                }
                (SchemaOr::Names, (2, payload)) => others.push(payload.text()?.into()),
                _ => {}
            }
        }
        Ok(match (or, found) {
            (SchemaOr::Bool, Value::Null) => false.into(),
            (_, Value::Null) => others.into(),
            (_, found) => found,
        })
    }
}

/// Seconds and nanoseconds since 1970; no time at all where both are zero.
fn time(bytes: &[u8], print: fn(jiff::Timestamp) -> String) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in fields(bytes) {
        match field? {
            (1, payload) => seconds = payload.integer()?,
            (2, payload) => nanos = payload.integer()?,
            _ => {}
        }
    }
    if (seconds, nanos) == (0, 0) {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Contents)?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Contents)?;
    Ok(print(time).into())
}

fn quantity(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut text = "0";
    for field in fields(bytes) {
        if let (1, payload) = field? {
            text = payload.text()?;
        }
    }
    Ok(text.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut kind, mut number, mut text) = (0, 0, "");
    for field in fields(bytes) {
        match field? {
            (1, payload) => kind = payload.integer()?,
            (2, payload) => number = payload.integer()?,
            (3, payload) => text = payload.text()?,
            _ => {}
        }
    }
    Ok(if kind == 0 {
        number.into()
    } else {
        text.into()
    })
}

/// `RawExtension`, `FieldsV1` and their like: JSON in the first field.
fn embedded_json(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut raw: &[u8] = &[];
    for field in fields(bytes) {
        if let (1, payload) = field? {
            raw = payload.bytes()?;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    body::json(raw)
        .map(|parsed| parsed.value)
        .map_err(|_| ProtobufError::Contents)
}

#[cfg(test)]
mod tests;
