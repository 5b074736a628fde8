//! Reads `application/vnd.kubernetes.protobuf`, in which Go clients send typed objects.
//!
//! A body is four magic bytes and a `runtime.Unknown` message, which holds the type's name and the object. The object's
//! types are those of the JSON form, walked along their [`Schema`]; only the fields' numbers have to be known besides
//! (`numbers.txt`). What comes out is JSON that goes the same way as a JSON body.

mod numbers;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
mod wire;

use serde_json::{Map, Number, Value, json};

use self::numbers::{Numbers, Target};
use self::wire::{Payload, fields};
use crate::body;
use crate::schema::{Schema, Struct, Type};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

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
