//! Request bodies: from bytes to JSON values, noticing fields given twice, and the small types that are sent to
//! subresources and verbs rather than stored.

use std::cell::RefCell;
use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::field::Path;
use crate::protobuf::{self, ProtobufError};
use crate::schema::{DecodeError, Schema};
use crate::status::Status;

/// A body as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; where a field was given more than once, with the last of its values.
    pub value: Value,
    /// Paths of the fields given more than once, at most [`Parsed::LIMIT`] of them.
    pub duplicates: Vec<String>,
}

impl Parsed {
    /// How many duplicate fields are told apart.
    pub const LIMIT: usize = 100;
}

/// Why a body can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or nested more than 128 deep.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Json(#[source] serde_json::Error),
    /// Not YAML, or nested too deep, or with too many repetitions of anchors.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(#[source] serde_yaml::Error),
}

impl From<ParseError> for Status {
    fn from(error: ParseError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Parses a JSON body. The caller bounds its length.
pub fn json(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let duplicates = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Node {
        at: None,
        duplicates: &duplicates,
    };
    let value = seed
        .deserialize(&mut deserializer)
        .map_err(ParseError::Json)?;
    deserializer.end().map_err(ParseError::Json)?;
    Ok(Parsed {
        value,
        duplicates: duplicates.into_inner(),
    })
}

/// Parses a YAML body of one document. A key given twice is an error already in YAML.
pub fn yaml(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let duplicates = RefCell::default();
    let seed = Node {
        at: None,
        duplicates: &duplicates,
    };
    let value = seed
        .deserialize(serde_yaml::Deserializer::from_slice(bytes))
        .map_err(ParseError::Yaml)?;
    Ok(Parsed {
        value,
        duplicates: duplicates.into_inner(),
    })
}

/// Reads any JSON value.
#[derive(Clone, Copy)]
struct Node<'p> {
    at: Option<&'p Path<'p>>,
    duplicates: &'p RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number =
            Number::from_f64(value).ok_or_else(|| E::custom("JSON has no infinite numbers"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let at = self.at.map(|at| at.index(list.len()));
            let item = Node {
                at: at.as_ref(),
                duplicates: self.duplicates,
            };
            match items.next_element_seed(item)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let path = Path::below(self.at, &key);
            let entry = Node {
                at: Some(&path),
                duplicates: self.duplicates,
            };
            let value = entries.next_value_seed(entry)?;
            if map.contains_key(&key) {
                self.report(path.bounded());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

impl Node<'_> {
    fn report(&self, duplicate: String) {
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < Parsed::LIMIT && !duplicates.contains(&duplicate) {
            duplicates.push(duplicate);
        }
    }
}

/// A key of a map; YAML allows numbers and booleans, too.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string as key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }

            fn visit_string<E>(self, key: String) -> Result<Key, E> {
                Ok(Key(key))
            }

            fn visit_i64<E>(self, key: i64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }

            fn visit_u64<E>(self, key: u64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }

            fn visit_bool<E>(self, key: bool) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

/// A type that is sent to a subresource or along with a verb, and is not stored.
pub struct BodyType<T> {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    schema: LazyLock<Schema>,
    marker: std::marker::PhantomData<fn() -> T>,
}

/// `policy/v1` Eviction, for `pods/eviction`.
pub static EVICTION: BodyType<Eviction> = BodyType::new("policy", "v1", "Eviction");
/// `v1` Binding, for `pods/binding` and `bindings`.
pub static BINDING: BodyType<Binding> = BodyType::new("", "v1", "Binding");
/// `autoscaling/v1` Scale, for every `scale` subresource.
pub static SCALE: BodyType<Scale> = BodyType::new("autoscaling", "v1", "Scale");
/// `authentication.k8s.io/v1` `TokenRequest`, for `serviceaccounts/token`.
pub static TOKEN_REQUEST: BodyType<TokenRequest> =
    BodyType::new("authentication.k8s.io", "v1", "TokenRequest");
/// `v1` `DeleteOptions`, which clients send with the group and version of whatever they delete.
pub static DELETE_OPTIONS: BodyType<DeleteOptions> = BodyType::new("", "v1", "DeleteOptions");

impl<T: DeserializeOwned> BodyType<T> {
    const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        let schema = LazyLock::new(Schema::of::<T> as fn() -> Schema);
        Self {
            group,
            version,
            kind,
            schema,
            marker: std::marker::PhantomData,
        }
    }

    /// The API group, "" for core.
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// The version.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The kind.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The type's shape, for patches.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Makes JSON of a protobuf body of this type, for [`BodyType::decode`].
    pub fn parse_protobuf(&self, bytes: &[u8]) -> Result<Parsed, ProtobufError> {
        let api_version = match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        };
        let value = protobuf::decode(bytes, &self.schema, &api_version)?;
        Ok(Parsed {
            value,
            duplicates: Vec::new(),
        })
    }

    /// Reads the type; gives the paths of unknown fields besides. The kind must be right if it is there; the version of
    /// [`DELETE_OPTIONS`] is nobody's business.
    pub fn decode(&self, mut value: Value) -> Result<(T, Vec<String>), Status> {
        if let Some(kind) = value.get("kind").and_then(Value::as_str)
            && kind != self.kind
        {
            let version = value
                .get("apiVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let message = format!(
                "{kind} in version {version:?} cannot be handled as a {}",
                self.kind
            );
            return Err(Status::bad_request(message));
        }
        let normalised = self
            .schema
            .normalise(&mut value)
            .map_err(|error| self.refuse(&error))?;
        if let Value::Object(object) = &mut value {
            // The type checks these against its own, which is too strict for delete options.
            object.remove("apiVersion");
            object.remove("kind");
        }
        let body = serde_json::from_value(value).map_err(|error| self.refuse(&error))?;
        Ok((body, normalised.unknown))
    }

    fn refuse(&self, error: &dyn std::error::Error) -> Status {
        let Self { version, kind, .. } = self;
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {error}"
        ))
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Self::bad_request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn notices_duplicate_fields_with_their_path() {
        let parsed =
            json(br#"{"a": 1, "b": [{"c": 1, "c": 2, "c": 3}], "a": {"d": null}}"#).unwrap();
        assert_eq!(parsed.duplicates, ["b[0].c", "a"]);
        assert_eq!(parsed.value, json!({"a": {"d": null}, "b": [{"c": 3}]}));
    }

    #[test]
    fn reads_yaml() {
        let parsed = yaml(b"a: 1\nb:\n- c: x\n  1: true\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 1, "b": [{"c": "x", "1": true}]}));
        assert!(yaml(b"a: 1\nb: [").is_err());
    }

    #[test]
    fn survives_hostile_bodies() {
        assert!(json(b"").is_err());
        assert!(json(b"{} {}").is_err());
        assert!(json("[".repeat(100_000).as_bytes()).is_err());
        assert!(yaml("[".repeat(100_000).as_bytes()).is_err());
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (previous, next) in ('a'..'j').zip('b'..='j') {
            let repeated = vec![format!("*{previous}"); 9].join(",");
            writeln!(bomb, "{next}: &{next} [{repeated}]").unwrap();
        }
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn says_little_about_much() {
        // Each of these is a duplicate below a key that is nearly as long as the whole.
        let long = "k".repeat(1 << 20);
        let twice = r#""a": 1, "#.repeat(5000);
        let parsed = json(format!(r#"{{"{long}": {{{twice}"a": 1}}}}"#).as_bytes()).unwrap();
        assert_eq!(parsed.duplicates.len(), 1);
        assert!(parsed.duplicates[0].len() < 1024);
        let many = (0..5000).fold(String::new(), |text, n| text + &format!(r#""x{n}": 1, "#));
        let mut value =
            json(format!(r#"{{"metadata": {{"{long}": {{{many}"a": 1}}}}}}"#).as_bytes())
                .unwrap()
                .value;
        let normalised = SCALE.schema().normalise(&mut value).unwrap();
        assert!(normalised.unknown[0].len() < 1024);
    }

    #[test]
    fn refuses_what_is_no_text_or_number() {
        for bad in [
            &b"{\"a\": \"\xff\"}"[..],
            b"{\"\xc3\x28\": 1}",
            b"{\"a\": 1e999}",
            b"{\"a\": \"\\ud800\"}",
            b"{\"a\": NaN}",
        ] {
            assert!(json(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        // Too large for any integer: a number still, for the type to refuse.
        let huge = json(b"{\"spec\": {\"replicas\": 123456789012345678901234567890}}").unwrap();
        assert_eq!(SCALE.decode(huge.value).unwrap_err().code(), 400);
    }

    #[test]
    fn reads_many_labels_in_no_time() {
        let labels = (0..10_000).fold(String::new(), |text, n| text + &format!(r#""l{n}": "v","#));
        let body = format!(r#"{{"metadata": {{"labels": {{{labels} "z": "v"}}}}}}"#);
        let (scale, unknown) = SCALE.decode(json(body.as_bytes()).unwrap().value).unwrap();
        assert_eq!(scale.metadata.labels.unwrap().len(), 10_001);
        assert!(unknown.is_empty());
    }

    #[test]
    fn decodes_bodies() {
        let (options, unknown) =
            DELETE_OPTIONS.decode(json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 3, "x": 1})).unwrap();
        assert_eq!(options.grace_period_seconds, Some(3));
        assert_eq!(unknown, ["x"]);
        assert!(
            BINDING
                .decode(json!({"kind": "Pod", "apiVersion": "v1"}))
                .is_err()
        );
        assert_eq!(
            SCALE
                .decode(json!({"spec": {"replicas": "x"}}))
                .unwrap_err()
                .code(),
            400
        );
    }
}
