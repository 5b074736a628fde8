//! What a kind has to say for itself ([`Kind`]), and the form in which a [`Resource`](super::Resource) asks it ([`Rules`]).

use std::error::Error;
use std::marker::PhantomData;
use std::sync::OnceLock;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::SchemaGenerator;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Decoded, Part, SelectableField};
use crate::field::{Errors, FieldError, Path};
use crate::names::{self, Problems};
use crate::schema::Schema;
use crate::table::{self, Column};
use crate::{Object, meta};

/// The rules of a built-in kind, written on its type. Each method's default suits a plain, passive kind.
///
/// The types are another crate's, and so is this trait for the crates that hold the kinds. Rust wants one of the names in
/// `impl Kind<Here> for Pod` to be the implementing crate's own: that is all `Here` is for, an empty type of that crate.
pub trait Kind<Here>:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + schemars::JsonSchema
    + 'static
{
    /// Whether `metadata.generation` counts the changes of the specification.
    const GENERATION: bool = false;

    /// Whether it counts the changes of the annotations, too.
    const GENERATION_OF_ANNOTATIONS: bool = false;

    /// Whether a new object brings its status along, rather than starting without one.
    const STATUS_ON_CREATE: bool = false;

    /// Whether an update may leave the `resourceVersion` out, and then wins over whatever happened in between.
    const UNCONDITIONAL_UPDATE: bool = true;

    /// Whether a PUT creates what is not there.
    const CREATE_ON_UPDATE: bool = false;

    /// What clients are warned of whenever they use this version of the kind.
    const DEPRECATION: Option<&'static str> = None;

    /// What a name must look like.
    const NAME: fn(&str) -> Problems = names::dns1123_subdomain;

    /// The fields that selectors may name besides `metadata.name` and `metadata.namespace`.
    const SELECTABLE: &'static [SelectableField] = &[];

    /// The table's columns.
    const COLUMNS: &'static [Column] = &[Column::NAME, Column::AGE];

    /// Fills in what was left out.
    fn apply_defaults(&mut self) {}

    /// Sets what a new object starts with; the status has been taken away.
    fn prepare_create(_object: &mut Object) {}

    /// Undoes what this write may not change, beyond the general rules for `part`.
    fn prepare_update(_new: &mut Object, _old: &Object, _part: Part, _now: Timestamp) {}

    /// Finds mistakes in a new object, beside those in its metadata.
    fn validate(&self, _errors: &mut Errors) {}

    /// Finds mistakes in an update, beside those in the metadata.
    fn validate_update(&self, _old: &Self, errors: &mut Errors) {
        self.validate(errors);
    }

    /// Finds mistakes in a new status.
    fn validate_status(&self, _old: &Self, _errors: &mut Errors) {}

    /// Finds mistakes in a write of one of the parts that few kinds have: neither the main one nor the status.
    fn validate_part(&self, _old: &Self, _part: Part, _errors: &mut Errors) {}

    /// See [`Resource::grace_period`](super::Resource::grace_period).
    fn grace_period(_object: &Object, _requested: Option<i64>) -> i64 {
        0
    }

    /// Whether validation may take longer than a few milliseconds.
    const THINKS_LONG: bool = false;

    /// Changes an object whose deletion begins, beyond its metadata's times: adds whoever has to do something before it
    /// may go.
    fn begin_deletion(_object: &mut Object, _now: Timestamp) {}

    /// The cells of the row, one for each of [`Kind::COLUMNS`].
    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![self.name_cell(), self.age_cell(now)]
    }

    /// The `Name` cell.
    fn name_cell(&self) -> Value {
        Value::from(self.metadata().name.clone().unwrap_or_default())
    }

    /// The `Age` cell.
    fn age_cell(&self, now: Timestamp) -> Value {
        let created = self
            .metadata()
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        Value::from(table::age(created, now))
    }
}

/// [`Kind`] without the type: how a resource calls its rules.
pub trait Rules: Send + Sync {
    /// The shape.
    fn schema(&self) -> &Schema;

    /// What tells the shape in the words of `OpenAPI`; `None` for kinds that have [`Rules::open_api`].
    fn describe(&self) -> Option<Describe> {
        None
    }

    /// See [`Kind::GENERATION`].
    fn has_generation(&self) -> bool;
    /// See [`Kind::GENERATION_OF_ANNOTATIONS`].
    fn counts_annotations(&self) -> bool {
        false
    }
    /// See [`Kind::STATUS_ON_CREATE`].
    fn status_on_create(&self) -> bool;
    /// See [`Kind::UNCONDITIONAL_UPDATE`].
    fn unconditional_update(&self) -> bool;
    /// See [`Kind::CREATE_ON_UPDATE`].
    fn create_on_update(&self) -> bool;
    /// See [`Kind::NAME`].
    fn name_check(&self) -> fn(&str) -> Problems;
    /// Checks the types of what came in a body, drops and reports what the kind does not have, fills defaults in. The
    /// error is said to the client as it prints.
    fn decode(&self, value: Value) -> Result<Decoded, Box<dyn Error + Send + Sync>>;
    /// Whether the kind's own type says how a strategic merge treats its fields.
    fn merges_strategically(&self) -> bool {
        true
    }
    /// The kind's `OpenAPI` v3 schema as whoever declared the kind wrote it; `None` where the type itself is the schema.
    fn open_api(&self) -> Option<&Value> {
        None
    }
    /// Whether validation may take longer than a few milliseconds, as with rules that somebody else wrote.
    fn thinks_long(&self) -> bool {
        false
    }
    /// What clients are warned of whenever they use this version of the kind.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// See [`Kind::prepare_create`].
    fn prepare_create(&self, object: &mut Object);
    /// See [`Kind::prepare_update`].
    fn prepare_update(&self, new: &mut Object, old: &Object, part: Part, now: Timestamp);
    /// See [`Kind::validate`].
    fn validate_create(&self, object: &Object, errors: &mut Errors);
    /// See [`Kind::validate_update`], [`Kind::validate_status`] and [`Kind::validate_part`].
    fn validate_update(&self, new: &Object, old: &Object, part: Part, errors: &mut Errors);
    /// See [`Resource::grace_period`](super::Resource::grace_period).
    fn grace_period(&self, object: &Object, requested: Option<i64>) -> i64;
    /// See [`Kind::begin_deletion`].
    fn begin_deletion(&self, _object: &mut Object, _now: Timestamp) {}
    /// The table's columns.
    fn columns(&self) -> &[Column];
    /// The cells of a row, one for each column.
    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value>;
}

/// Adds a type, and the types that it is made of, to the definitions of a generator; gives a reference to it.
pub type Describe = fn(&mut SchemaGenerator) -> schemars::Schema;

/// Connects a [`Kind`] to [`Rules`].
pub struct Typed<K, Here> {
    schema: OnceLock<Schema>,
    kind: PhantomData<fn() -> (K, Here)>,
}

impl<K, Here> Default for Typed<K, Here> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, Here> Typed<K, Here> {
    /// The rules of `K`.
    pub const fn new() -> Self {
        Self {
            schema: OnceLock::new(),
            kind: PhantomData,
        }
    }
}

/// Reads the type off an object. The object has been normalised, so that this fails for nothing that a client sent.
fn typed<K: DeserializeOwned>(object: &Object, errors: &mut Errors) -> Option<K> {
    match K::deserialize(object) {
        Ok(typed) => Some(typed),
        Err(error) => {
            errors.push(FieldError::invalid(
                &Path::root("<object>"),
                "",
                error.to_string(),
            ));
            None
        }
    }
}

impl<K: Kind<Here>, Here: 'static> Rules for Typed<K, Here> {
    fn schema(&self) -> &Schema {
        self.schema.get_or_init(Schema::of::<K>)
    }

    fn describe(&self) -> Option<Describe> {
        Some(SchemaGenerator::subschema_for::<K>)
    }

    fn has_generation(&self) -> bool {
        K::GENERATION
    }

    fn counts_annotations(&self) -> bool {
        K::GENERATION_OF_ANNOTATIONS
    }

    fn status_on_create(&self) -> bool {
        K::STATUS_ON_CREATE
    }

    fn unconditional_update(&self) -> bool {
        K::UNCONDITIONAL_UPDATE
    }

    fn create_on_update(&self) -> bool {
        K::CREATE_ON_UPDATE
    }

    fn deprecation(&self) -> Option<&str> {
        K::DEPRECATION
    }

    fn name_check(&self) -> fn(&str) -> Problems {
        K::NAME
    }

    fn decode(&self, mut value: Value) -> Result<Decoded, Box<dyn Error + Send + Sync>> {
        let normalised = self.schema().normalise(&mut value)?;
        let mut typed: K = serde_json::from_value(value)?;
        typed.apply_defaults();
        match serde_json::to_value(&typed)? {
            Value::Object(object) => Ok(Decoded {
                object,
                unknown: normalised.unknown,
            }),
            other => Err(format!("not an object: {other}").into()),
        }
    }

    fn prepare_create(&self, object: &mut Object) {
        K::prepare_create(object);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object, part: Part, now: Timestamp) {
        K::prepare_update(new, old, part, now);
    }

    fn validate_create(&self, object: &Object, errors: &mut Errors) {
        if let Some(new) = typed::<K>(object, errors) {
            new.validate(errors);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, part: Part, errors: &mut Errors) {
        let (Some(new), Some(old)) = (typed::<K>(new, errors), typed::<K>(old, errors)) else {
            return;
        };
        match part {
            Part::Main => new.validate_update(&old, errors),
            Part::Status | Part::Finalize => new.validate_status(&old, errors),
            Part::EphemeralContainers | Part::Resize | Part::Approval => {
                new.validate_part(&old, part, errors);
            }
        }
    }

    fn grace_period(&self, object: &Object, requested: Option<i64>) -> i64 {
        K::grace_period(object, requested)
    }

    fn begin_deletion(&self, object: &mut Object, now: Timestamp) {
        K::begin_deletion(object, now);
    }

    fn thinks_long(&self) -> bool {
        K::THINKS_LONG
    }

    fn columns(&self) -> &[Column] {
        K::COLUMNS
    }

    fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        if let Ok(typed) = K::deserialize(object) {
            return typed.row(now);
        }
        // Whatever is stored has been normalised once; a row that says so little still shows that it is there.
        let mut cells = vec![Value::Null; K::COLUMNS.len()];
        cells[0] = meta::name(object).into();
        cells
    }
}
