//! `metadata.managedFields`: who owns which fields.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::reconcile::reconcile;
use super::set::Set;
use crate::schema::Schema;
use crate::{Object, meta};

/// How many entries of updates an object keeps apart; the older ones become one for each version.
const UPDATES_MAX: usize = 10;
/// The manager of what the older ones become.
const ANCIENT: &str = "ancient-changes";

/// The way in which a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// `None` if it never had one.
    pub(super) time: Option<Timestamp>,
    pub(super) fields: Set,
}

impl Entry {
    /// Whether a write by `other` goes into this entry. The version in which it was applied makes no difference.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as conflicts name it.
    pub(super) fn describe(&self) -> String {
        let subresource = match self.subresource.as_str() {
            "" => String::new(),
            name => format!(" with subresource {name:?}"),
        };
        let version = match self.operation {
            Operation::Apply => String::new(),
            Operation::Update => format!(" using {}", self.api_version),
        };
        format!("{:?}{subresource}{version}", self.manager)
    }

    fn seconds(&self) -> i64 {
        self.time.map_or(0, Timestamp::as_second)
    }

    fn from_json(value: Value, index: usize) -> Result<Self, DecodeError> {
        let Value::Object(mut entry) = value else {
            return Err(DecodeError::Operation);
        };
        let mut text = |field| match entry.remove(field) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(DecodeError::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(DecodeError::ApiVersion);
        }
        match text("fieldsType") {
            kind if kind == "FieldsV1" => {}
            kind if kind.is_empty() => return Err(DecodeError::NoFieldsType(index)),
            kind => return Err(DecodeError::FieldsType(kind, index)),
        }
        let (manager, subresource, time) = (text("manager"), text("subresource"), text("time"));
        let fields = match entry.remove("fieldsV1") {
            None | Some(Value::Null) => Set::default(),
            Some(fields) => {
                Set::from_json(fields).map_err(|_| DecodeError::Fields(manager.clone()))?
            }
        };
        Ok(Self {
            manager,
            operation,
            api_version,
            subresource,
            time: time.parse().ok(),
            fields,
        })
    }

    fn into_json(self) -> Value {
        let mut entry = Map::new();
        let mut text = |field: &str, text: String| {
            if !text.is_empty() {
                entry.insert(field.to_owned(), Value::String(text));
            }
        };
        text("manager", self.manager);
        text("operation", self.operation.as_str().to_owned());
        text("apiVersion", self.api_version);
        text("fieldsType", "FieldsV1".to_owned());
        text("subresource", self.subresource);
        text("time", self.time.map(meta::time).unwrap_or_default());
        entry.insert("fieldsV1".to_owned(), self.fields.into_json());
        Value::Object(entry)
    }
}

/// Why the list of an object can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither an apply nor an update.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// No type of its fields, in the entry at this index.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// Another type of fields, in the entry at this index.
    #[error("invalid fieldsType {0:?} in managed fields entry {1}")]
    FieldsType(String, usize),
    /// The manager's fields are no `FieldsV1`.
    #[error("error decoding versioned set of manager {0:?}")]
    Fields(String),
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// Reads the list, as it stands in an object.
    pub(super) fn from_json(list: Value) -> Result<Self, DecodeError> {
        let Value::Array(items) = list else {
            return Ok(Self::default());
        };
        let entries = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| Entry::from_json(item, index));
        let mut managers = Self(entries.collect::<Result<_, _>>()?);
        managers.unite_twins();
        Ok(managers)
    }

    /// The list of a live object, in line with its schema.
    pub(super) fn of(schema: &Schema, live: &Object, list: &Value) -> Result<Self, DecodeError> {
        let mut managers = Self::from_json(list.clone())?;
        for entry in &mut managers.0 {
            reconcile(schema, live, &mut entry.fields);
        }
        Ok(managers)
    }

    pub(super) fn find(&self, wanted: &Entry) -> Option<usize> {
        self.0.iter().position(|entry| entry.is(wanted))
    }

    /// Drops entries without fields, and keeps the number of updates in bounds.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        let is_update = |entry: &&Entry| entry.operation == Operation::Update;
        let mut count = self.0.iter().filter(is_update).count();
        if count <= UPDATES_MAX {
            return;
        }
        let mut entries = std::mem::take(&mut self.0);
        entries.sort_by(Entry::oldest_first);
        // Where the oldest entry of each version is: the second one makes it that version's bucket.
        let mut firsts: HashMap<String, usize> = HashMap::new();
        for entry in entries {
            if !is_update(&&entry) || count <= UPDATES_MAX {
                self.0.push(entry);
                continue;
            }
            match firsts.get(&entry.api_version) {
                None => {
                    firsts.insert(entry.api_version.clone(), self.0.len());
                    self.0.push(entry);
                }
                Some(first) => {
                    let bucket = &mut self.0[*first];
                    ANCIENT.clone_into(&mut bucket.manager);
                    bucket.subresource.clear();
                    bucket.fields.unite(entry.fields);
                    bucket.time = entry.time;
                    count -= 1;
                }
            }
        }
        self.unite_twins();
    }

    /// Makes one of entries that are the same one.
    fn unite_twins(&mut self) {
        if self.0.len() < 2 {
            return;
        }
        let mut places: HashMap<_, usize> = HashMap::with_capacity(self.0.len());
        for entry in std::mem::take(&mut self.0) {
            let version = match entry.operation {
                Operation::Apply => String::new(),
                Operation::Update => entry.api_version.clone(),
            };
            let key = (
                entry.manager.clone(),
                entry.subresource.clone(),
                entry.operation,
                version,
            );
            let place = *places.entry(key).or_insert(self.0.len());
            match self.0.get_mut(place) {
                Some(twin) => {
                    twin.fields.unite(entry.fields);
                    twin.time = twin.time.max(entry.time);
                }
                None => self.0.push(entry),
            }
        }
    }

    /// The list in its order: applies first, then by time and name.
    pub(super) fn into_json(mut self) -> Value {
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| (entry.operation, entry.seconds());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
        Value::Array(self.0.into_iter().map(Entry::into_json).collect())
    }

    /// Writes the list into an object; no list where there are no entries.
    pub(super) fn store(self, object: &mut Object) {
        let metadata = meta::metadata_mut(object);
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), self.into_json());
        }
    }
}

impl Entry {
    fn oldest_first(a: &Self, b: &Self) -> std::cmp::Ordering {
        a.seconds()
            .cmp(&b.seconds())
            .then_with(|| a.manager.cmp(&b.manager))
            .then_with(|| a.api_version.cmp(&b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    }
}
