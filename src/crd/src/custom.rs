//! [`Custom`]: the rules of one version of a kind that a definition declares.

use std::error::Error;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};
use vaquita_api::field::{ErrorKind, Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::registry::{Decoded, Part, Rules};
use vaquita_api::schema::{DecodeError, Schema};
use vaquita_api::table::Column;
use vaquita_api::{Object, meta, validate};

use crate::columns::Columns;
use crate::rules::RuleSet;
use crate::structural::{Node, lists, validate as values};

/// One version of a custom kind.
pub(crate) struct Custom {
    pub(crate) node: Arc<Node>,
    pub(crate) rules: RuleSet,
    pub(crate) schema: Schema,
    pub(crate) columns: Columns,
    pub(crate) open_api: Value,
    pub(crate) deprecation: Option<String>,
    /// What the version is served as, as strategic merges are refused by its name.
    pub(crate) has_status: bool,
}

/// What every object has, whatever its schema says: enough to bring metadata into form.
#[derive(serde::Deserialize)]
struct Bare {
    #[allow(dead_code, reason = "the schema is read off the type")]
    metadata: ObjectMeta,
}

static BARE: LazyLock<Schema> = LazyLock::new(Schema::of::<Bare>);

/// Checks and canonicalises `metadata` as that of a built-in kind. Gives the paths of unknown fields.
fn normalise_metadata(map: &mut Map<String, Value>) -> Result<Vec<String>, DecodeError> {
    let Some(metadata) = map.get_mut("metadata") else {
        return Ok(Vec::new());
    };
    let mut bare = Value::Object(Map::from_iter([("metadata".to_owned(), metadata.take())]));
    let normalised = BARE.normalise(&mut bare)?;
    match bare.get_mut("metadata").map(Value::take) {
        Some(whole) if !whole.is_null() => *metadata = whole,
        _ => {
            map.remove("metadata");
        }
    }
    Ok(normalised.unknown)
}

/// The same for the metadata of the resources that an object has inside.
fn normalise_embedded(
    node: &Node,
    value: &mut Value,
    is_root: bool,
    unknown: &mut Vec<String>,
) -> Result<(), DecodeError> {
    if let (true, Value::Object(map)) = (node.embedded && !is_root, &mut *value) {
        unknown.extend(normalise_metadata(map)?);
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if let Some(property) = node.property(name) {
                    normalise_embedded(property, value, false, unknown)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                for value in items {
                    normalise_embedded(item, value, false, unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The resources inside of an object have a type and sound metadata.
fn validate_embedded(node: &Node, value: &Value, at: Option<&Path<'_>>, errors: &mut Errors) {
    match value {
        Value::Object(map) => {
            if let Some(at) = at.filter(|_| node.embedded) {
                for name in ["apiVersion", "kind"] {
                    let text = map.get(name).and_then(Value::as_str).unwrap_or_default();
                    if text.is_empty() {
                        errors.push(FieldError::required(&at.child(name), "must not be empty"));
                    }
                }
                validate::metadata::parts(map, &at.child("metadata"), errors);
            }
            for (name, value) in map {
                if let Some(property) = node.property(name) {
                    validate_embedded(property, value, Some(&Path::below(at, name)), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                for (index, value) in items.iter().enumerate() {
                    let at = at.map(|at| at.index(index));
                    validate_embedded(item, value, at.as_ref(), errors);
                }
            }
        }
        _ => {}
    }
}

/// Whether a value is so far from what it should be that a rule may stumble over it.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotSupported
            | ErrorKind::Required
            | ErrorKind::TooLong
            | ErrorKind::TooMany
            | ErrorKind::TypeInvalid
    )
}

impl Custom {
    fn validate(&self, new: &Object, old: Option<&Object>, errors: &mut Errors) {
        let before = errors.len();
        let new = Value::Object(new.clone());
        let old = old.map(|old| Value::Object(old.clone()));
        values::validate(&self.node, &new, old.as_ref(), None, errors);
        validate_embedded(&self.node, &new, None, errors);
        lists::validate(&self.node, &new, None, errors);
        if self.rules.is_empty() {
            return;
        }
        if errors.iter().skip(before).any(blocks_rules) {
            const DETAIL: &str = "some validation rules were not checked because the object was invalid; correct the \
                                  existing errors to complete validation";
            errors.push(FieldError::invalid(&Path::root("<nil>"), "null", DETAIL));
            return;
        }
        self.rules.validate(&new, old.as_ref(), None, errors);
    }
}

impl Rules for Custom {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn status_on_create(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        false
    }

    fn name_check(&self) -> fn(&str) -> Problems {
        names::dns1123_subdomain
    }

    fn decode(&self, mut value: Value) -> Result<Decoded, Box<dyn Error + Send + Sync>> {
        let Value::Object(map) = &mut value else {
            return Err("the body is not an object".into());
        };
        let mut unknown = normalise_metadata(map)?;
        unknown.extend(self.node.prune(&mut value));
        self.node.drop_nulls(&mut value);
        self.node.fill_defaults(&mut value)?;
        normalise_embedded(&self.node, &mut value, true, &mut unknown)?;
        match value {
            Value::Object(object) => Ok(Decoded { object, unknown }),
            _ => Err("the body is not an object".into()),
        }
    }

    fn merges_strategically(&self) -> bool {
        false
    }

    fn open_api(&self) -> Option<&Value> {
        Some(&self.open_api)
    }

    fn thinks_long(&self) -> bool {
        !self.rules.is_empty()
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn prepare_create(&self, _object: &mut Object) {}

    fn prepare_update(&self, new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        if part != Part::Status || !self.has_status {
            return;
        }
        // A write of the status leaves even the metadata alone; which state it is based on and who owns what is the
        // write's own.
        let kept = ["resourceVersion", "managedFields"].map(|name| {
            let value = meta::at(new, &["metadata", name]).cloned();
            (name, value)
        });
        if let Some(metadata) = old.get("metadata") {
            new.insert("metadata".to_owned(), metadata.clone());
        }
        let metadata = meta::metadata_mut(new);
        for (name, value) in kept {
            match value {
                Some(value) => metadata.insert(name.to_owned(), value),
                None => metadata.remove(name),
            };
        }
    }

    fn validate_create(&self, object: &Object, errors: &mut Errors) {
        self.validate(object, None, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, _part: Part, errors: &mut Errors) {
        self.validate(new, Some(old), errors);
    }

    fn grace_period(&self, _object: &Object, _requested: Option<i64>) -> i64 {
        0
    }

    fn columns(&self) -> &[Column] {
        self.columns.columns()
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        self.columns.row(object, now)
    }
}
