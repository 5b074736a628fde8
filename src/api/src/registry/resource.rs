//! A served kind: its names, verbs and subresources, and the way of an object through its rules.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::rules::{Describe, Rules};
use crate::body::Parsed;
use crate::field::{Errors, FieldError, Path};
use crate::protobuf::{self, ProtobufError};
use crate::schema::Schema;
use crate::status::Status;
use crate::table::Column;
use crate::{Object, meta, validate};

/// A verb of the API, as discovery and authorization name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// POST to the collection.
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of the collection.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of the collection.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// GET of the collection with `watch=true`.
    Watch,
}

impl Verb {
    /// All that a stored resource has.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A path below an object: `pods/NAME/log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last segment of the path.
    pub name: String,
    /// The group of `kind`.
    pub group: String,
    /// The version of `kind`.
    pub version: String,
    /// What is sent and received there.
    pub kind: String,
    /// What can be done there.
    pub verbs: Vec<Verb>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FieldPath {
    Known(&'static [&'static str]),
    Declared(Vec<String>),
}

/// A field that a field selector may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// As selectors name it: `spec.nodeName`.
    pub label: Cow<'static, str>,
    /// Where the value is.
    path: FieldPath,
    /// The value where there is none.
    zero: &'static str,
}

impl SelectableField {
    /// The object's name.
    pub const NAME: Self = Self::new("metadata.name", &["metadata", "name"], "");
    /// The object's namespace.
    pub const NAMESPACE: Self = Self::new("metadata.namespace", &["metadata", "namespace"], "");

    /// A field of a built-in kind. `zero` is what stands for a value that is not there.
    pub const fn new(
        label: &'static str,
        path: &'static [&'static str],
        zero: &'static str,
    ) -> Self {
        Self {
            label: Cow::Borrowed(label),
            path: FieldPath::Known(path),
            zero,
        }
    }

    /// A field that is known at run time only, by the names on the way to it.
    pub fn custom(label: String, path: Vec<String>) -> Self {
        Self {
            label: Cow::Owned(label),
            path: FieldPath::Declared(path),
            zero: "",
        }
    }

    /// The field's value in `object`, as selectors compare it.
    pub fn value(&self, object: &Object) -> String {
        let found = match &self.path {
            FieldPath::Known(path) => meta::at(object, path),
            FieldPath::Declared(path) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                meta::at(object, &path)
            }
        };
        match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(set)) => set.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            _ => self.zero.to_owned(),
        }
    }
}

/// Where a kind keeps what its `scale` subresource shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number, such as `spec.replicas`.
    pub replicas: Vec<String>,
    /// The present number, such as `status.replicas`.
    pub status_replicas: Vec<String>,
    /// A map or `metav1.LabelSelector` of the pods counted, such as `spec.selector`.
    pub selector: Vec<String>,
}

/// Where the objects that a resource shows are kept.
#[derive(Clone, Default)]
pub enum Storage {
    /// Under the resource's own group, version and plural, as they are.
    #[default]
    Own,
    /// With another resource, of which this one is another view: `events.k8s.io/v1` shows the core events.
    Shared {
        /// The group, version and plural of the resource that keeps them.
        with: (&'static str, &'static str, &'static str),
        /// How one becomes the other.
        convert: Arc<dyn Convert>,
    },
    /// Under the resource's own group and plural, and there with the objects of all its versions, in the form of any.
    Versions {
        /// Whether new objects are stored in this version.
        stored: bool,
        /// How one becomes another.
        convert: Arc<dyn Convert>,
    },
    /// Nowhere: what is created is answered and forgotten, as reviews are.
    Nowhere,
}

/// Between the form of an object that is stored and the one that a resource shows.
///
/// Both ways keep everything that the other form can't say, in annotations where upstream does so. `apiVersion` and `kind`
/// are set to those of the result.
pub trait Convert: Send + Sync {
    /// The stored object as this resource shows it.
    #[allow(
        clippy::wrong_self_convention,
        reason = "it reads as what it does: from what is stored"
    )]
    fn from_stored(&self, object: Object) -> Result<Object, Status>;
    /// This resource's object (with its defaults) as it is stored.
    fn to_stored(&self, object: Object) -> Result<Object, Status>;
    /// How many stored objects are worth showing in advance, because each has to be asked for elsewhere. 0 for most.
    fn foresight(&self) -> usize {
        0
    }
    /// Tells that these stored objects, at most [`foresight`](Self::foresight) of them, are about to be shown, so that they
    /// can be asked for together. What goes wrong with that shows when they are.
    fn foresee(&self, _objects: Vec<Object>) {}
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("Own"),
            Self::Shared { with, .. } => f.debug_tuple("Shared").field(with).finish(),
            Self::Versions { stored, .. } => f.debug_tuple("Versions").field(stored).finish(),
            Self::Nowhere => f.write_str("Nowhere"),
        }
    }
}

/// The part of an object that a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object itself: all but its status.
    Main,
    /// The `status` subresource.
    Status,
    /// The `finalize` subresource of namespaces: `spec.finalizers` and the status.
    Finalize,
    /// The `ephemeralcontainers` subresource of pods: containers for debugging, added while the pod runs.
    EphemeralContainers,
    /// The `resize` subresource of pods: what containers request and are limited to.
    Resize,
    /// The `approval` subresource of certificate signing requests: the conditions in their status.
    Approval,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 6] = [
        Self::Main,
        Self::Status,
        Self::Finalize,
        Self::EphemeralContainers,
        Self::Resize,
        Self::Approval,
    ];

    /// The part that a subresource shows and writes; `None` for those that are about something else than the object.
    pub fn of_subresource(name: &str) -> Option<Self> {
        match name {
            "status" => Some(Self::Status),
            "finalize" => Some(Self::Finalize),
            "ephemeralcontainers" => Some(Self::EphemeralContainers),
            "resize" => Some(Self::Resize),
            "approval" => Some(Self::Approval),
            _ => None,
        }
    }

    /// Whether a write of this part may change the specification, and with it the generation.
    pub fn is_specification(self) -> bool {
        matches!(self, Self::Main | Self::EphemeralContainers | Self::Resize)
    }
}

/// What the server contributes to an object that is created.
#[derive(Clone, Debug)]
pub struct NewObject<'r> {
    /// The namespace of the request's path; "" for cluster-scoped resources.
    pub namespace: &'r str,
    /// The creation time.
    pub now: Timestamp,
    /// A fresh UUID.
    pub uid: String,
    /// A random number, for `generateName`.
    pub entropy: u64,
}

/// What came out of a request's body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with defaults filled in.
    pub object: Object,
    /// Paths of fields that the kind does not have, and which were dropped. What to do about them is said by the
    /// request's `fieldValidation`; see [`Resource::strict_error`].
    pub unknown: Vec<String>,
}

/// One kind that is served, with its rules.
pub struct Resource {
    /// The API group, "" for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind, such as `Pod`.
    pub kind: String,
    /// The kind of its lists, such as `PodList`.
    pub list_kind: String,
    /// The name in URLs, such as `pods`.
    pub plural: String,
    /// Such as `pod`.
    pub singular: String,
    /// Such as `po`.
    pub short_names: Vec<String>,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<Verb>,
    /// The paths below its objects.
    pub subresources: Vec<Subresource>,
    /// Its `scale` subresource, if it has one.
    pub scale: Option<ScalePaths>,
    /// The fields that selectors may name.
    pub selectable: Vec<SelectableField>,
    /// Where its objects are kept.
    pub storage: Storage,
    /// What its objects must be like.
    pub rules: Box<dyn Rules>,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({}/{})", self.api_version(), self.plural)
    }
}

impl Resource {
    /// `v1` or `group/version`, as objects carry it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources
            .iter()
            .find(|subresource| subresource.name == name)
    }

    /// Whether the status is written apart from the rest.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether a PUT to a name that is not there creates the object.
    pub fn creates_on_update(&self) -> bool {
        self.rules.create_on_update()
    }

    /// The kind's shape, for strategic merges.
    pub fn schema(&self) -> &Schema {
        self.rules.schema()
    }

    /// Whether strategic merge patches are understood, as they are for every built-in kind.
    pub fn merges_strategically(&self) -> bool {
        self.rules.merges_strategically()
    }

    /// The kind's `OpenAPI` v3 schema as it was declared, for kinds that are declared at run time.
    pub fn open_api(&self) -> Option<&Value> {
        self.rules.open_api()
    }

    /// What clients are warned of whenever they use this version, such as `example.com/v1alpha1 Widget is deprecated`.
    pub fn deprecation(&self) -> Option<&str> {
        self.rules.deprecation()
    }

    /// What tells a kind's shape in the words of `OpenAPI`, for built-in kinds.
    pub fn describe(&self) -> Option<Describe> {
        self.rules.describe()
    }

    /// Makes JSON of a protobuf body, for [`Resource::decode`].
    pub fn parse_protobuf(&self, bytes: &[u8]) -> Result<Parsed, ProtobufError> {
        let value = protobuf::decode(bytes, self.schema(), &self.api_version())?;
        Ok(Parsed {
            value,
            duplicates: Vec::new(),
        })
    }

    /// Makes an object of a body or of a patch's result: checks `apiVersion` and `kind` (both may be absent) and every
    /// type, drops unknown fields, fills in defaults.
    pub fn decode(&self, value: Value) -> Result<Decoded, Status> {
        let mut value = value;
        self.check_type(&mut value)?;
        self.rules
            .decode(value)
            .map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &dyn fmt::Display) -> Status {
        let (kind, version) = (&self.kind, &self.version);
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {error}"
        ))
    }

    /// The error of `fieldValidation=Strict`, for unknown and duplicate fields.
    pub fn strict_error(&self, unknown: &[String], duplicates: &[String]) -> Status {
        let problems: Vec<String> = field_warnings(unknown, duplicates).collect();
        self.refuse(&format_args!(
            "strict decoding error: {}",
            problems.join(", ")
        ))
    }

    /// Checks the type's name and sets it where it is missing.
    fn check_type(&self, value: &mut Value) -> Result<(), Status> {
        let Value::Object(object) = value else {
            return Ok(());
        };
        let text = |field| match object.get(field) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(Status::bad_request(format!(
                "couldn't get version/kind; {field} is not a string"
            ))),
        };
        let (api_version, kind) = (text("apiVersion")?, text("kind")?);
        let wanted = self.api_version();
        if !kind.is_empty() && kind != self.kind {
            let message = format!(
                "{kind} in version {api_version:?} cannot be handled as a {}",
                self.kind
            );
            return Err(Status::bad_request(message));
        }
        if !api_version.is_empty() && api_version != wanted {
            let message = format!(
                "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
            );
            return Err(Status::bad_request(message));
        }
        object.insert("apiVersion".to_owned(), wanted.into());
        object.insert("kind".to_owned(), self.kind.clone().into());
        Ok(())
    }

    /// Makes a decoded object one that is about to be created: namespace, generated name, uid, creation time, generation;
    /// no deletion time, and no status but the initial one. Fails if the object names another namespace or has a
    /// `resourceVersion`. What is kept nowhere is only placed.
    pub fn prepare_create(&self, object: &mut Object, new: &NewObject<'_>) -> Result<(), Status> {
        if !matches!(meta::resource_version(object), "" | "0") {
            const MESSAGE: &str = "resourceVersion should not be set on objects to be created";
            return Err(Status::bad_request(MESSAGE));
        }
        self.place(object, new.namespace)?;
        if matches!(self.storage, Storage::Nowhere) {
            return Ok(());
        }
        let generated = meta::name(object).is_empty() && !meta::generate_name(object).is_empty();
        let name =
            generated.then(|| meta::generated_name(meta::generate_name(object), new.entropy));
        let metadata = meta::metadata_mut(object);
        for field in [
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
        ] {
            metadata.remove(field);
        }
        if let Some(name) = name {
            metadata.insert("name".to_owned(), name.into());
        }
        metadata.insert("uid".to_owned(), new.uid.clone().into());
        metadata.insert("creationTimestamp".to_owned(), meta::time(new.now).into());
        if self.rules.has_generation() {
            metadata.insert("generation".to_owned(), 1.into());
        }
        if self.has_status() && !self.rules.status_on_create() {
            object.remove("status");
        }
        self.rules.prepare_create(object);
        Ok(())
    }

    /// Sets the namespace of an object that came in a body, or checks that it is the one of the path.
    pub fn place(&self, object: &mut Object, namespace: &str) -> Result<(), Status> {
        let metadata = meta::metadata_mut(object);
        let given = metadata
            .get("namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !self.namespaced {
            // Upstream drops a namespace that makes no sense rather than refusing it.
            metadata.remove("namespace");
            return Ok(());
        }
        if !given.is_empty() && given != namespace {
            const MESSAGE: &str = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(MESSAGE));
        }
        metadata.insert("namespace".to_owned(), namespace.into());
        Ok(())
    }

    /// Finds what is wrong with an object that is to be created. What its author should merely hear of is the answer.
    pub fn validate_create(&self, object: &Object) -> Result<Vec<String>, Status> {
        let mut errors = Errors::default();
        // What is kept nowhere needs no name; whether it may have other metadata is for its kind to say.
        if !matches!(self.storage, Storage::Nowhere) {
            validate::metadata::create(
                object,
                self.namespaced,
                self.rules.name_check(),
                &mut errors,
            );
        }
        self.rules.validate_create(object, &mut errors);
        self.invalid(object, &errors)?;
        Ok(errors.into_warnings())
    }

    /// Makes a decoded object the successor of `old`: whatever `part` is not about comes from `old`, and the generation
    /// rises when the specification changes.
    ///
    /// `resourceVersion` is left as it is; comparing it with the stored one is the caller's.
    pub fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        part: Part,
        now: Timestamp,
    ) -> Result<(), Status> {
        self.place(new, meta::namespace(old))?;
        keep_system_metadata(new, old);
        match part {
            Part::Main if self.has_status() => keep(new, old, "status"),
            Part::Status | Part::Approval => {
                for (field, value) in old {
                    if !matches!(field.as_str(), "metadata" | "status") {
                        new.insert(field.clone(), value.clone());
                    }
                }
                new.retain(|field, _| {
                    matches!(field.as_str(), "metadata" | "status") || old.contains_key(field)
                });
            }
            Part::EphemeralContainers | Part::Resize => keep(new, old, "status"),
            Part::Main | Part::Finalize => {}
        }
        self.rules.prepare_update(new, old, part, now);
        if part.is_specification() && self.rules.has_generation() {
            let raise = specification_changed(new, old, self.has_status())
                || self.rules.counts_annotations()
                    && meta::annotations(new) != meta::annotations(old);
            let generation = meta::generation(old) + i64::from(raise);
            if generation > 0 {
                meta::metadata_mut(new).insert("generation".to_owned(), generation.into());
            }
        }
        Ok(())
    }

    /// Finds what is wrong with an object that is to replace `old`.
    ///
    /// For the few kinds whose updates must say which version they are based on, `new` must still have the
    /// `resourceVersion` that the client sent. What its author should merely hear of is the answer; nobody hears again of
    /// what was in the specification before and stays.
    pub fn validate_update(
        &self,
        new: &Object,
        old: &Object,
        part: Part,
    ) -> Result<Vec<String>, Status> {
        let mut errors = Errors::default();
        if !self.rules.unconditional_update() && meta::resource_version(new).is_empty() {
            let metadata = Path::root("metadata");
            let detail = "must be specified for an update";
            errors.push(FieldError::invalid(
                &metadata.child("resourceVersion"),
                0,
                detail,
            ));
        }
        validate::metadata::update(new, old, &mut errors);
        self.rules.validate_update(new, old, part, &mut errors);
        self.invalid(new, &errors)?;
        let same = self.rules.has_generation() && meta::generation(new) == meta::generation(old);
        Ok(if same {
            Vec::new()
        } else {
            errors.into_warnings()
        })
    }

    fn invalid(&self, object: &Object, errors: &[FieldError]) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(
            &self.group,
            &self.kind,
            meta::name(object),
            errors,
        ))
    }

    /// How many seconds a deletion leaves the object to end by itself; 0 removes it at once, as for nearly every kind.
    /// `requested` is the client's `gracePeriodSeconds`.
    pub fn grace_period(&self, object: &Object, requested: Option<i64>) -> i64 {
        self.rules.grace_period(object, requested)
    }

    /// The fields that a selector may name: `metadata.name`, `metadata.namespace` if there is one, and the kind's own.
    pub fn selectable(&self) -> &[SelectableField] {
        &self.selectable
    }

    /// The table's columns.
    pub fn columns(&self) -> &[Column] {
        self.rules.columns()
    }

    /// The cells of an object's row, one for each column.
    pub fn row(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        self.rules.row(object, now)
    }
}

/// Unknown and duplicate fields in the words of warnings and errors: `unknown field "spec.replica"`.
pub fn field_warnings<'f>(
    unknown: &'f [String],
    duplicates: &'f [String],
) -> impl Iterator<Item = String> + 'f {
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"))
        .chain(unknown)
}

/// Copies a top-level field from `old`, or removes it.
fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
}

/// What no update may touch stays silently as it was, where upstream is silent about it.
fn keep_system_metadata(new: &mut Object, old: &Object) {
    const KEPT: [&str; 5] = [
        "creationTimestamp",
        "generation",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let before = old.get("metadata").and_then(Value::as_object);
    let metadata = meta::metadata_mut(new);
    for field in KEPT {
        match before.and_then(|before| before.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    // A uid may be left out of an update, but not be another one; validation looks at that.
    if metadata.get("uid").is_none_or(|uid| uid == "")
        && let Some(uid) = before.and_then(|before| before.get("uid"))
    {
        metadata.insert("uid".to_owned(), uid.clone());
    }
}

/// Whether anything but metadata differs, and but the status where that is written apart.
fn specification_changed(new: &Object, old: &Object, status_is_apart: bool) -> bool {
    let part = |object: &Object| -> Vec<(String, Value)> {
        let other = |(field, _): &(&String, &Value)| match field.as_str() {
            "metadata" => false,
            "status" => !status_is_apart,
            _ => true,
        };
        object
            .iter()
            .filter(other)
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    part(new) != part(old)
}
