//! Server-side apply and the ownership of fields (`metadata.managedFields`).
//!
//! Each write has a [`Manager`]. [`track`] records which fields a create, update or patch took; it belongs on every write,
//! before admission plugins change the object. [`apply`] merges a configuration into the live object: whoever applied a
//! field owns it, another one who wants a different value gets a [`Conflict`] unless it insists, and what its owner does
//! not apply any more goes away. Both walk along the kind's [`Schema`], which says what is owned as a whole.
//!
//! Sets of managers who used other versions of a kind are compared path by path as if they had used this one.
//!
//! See "Server-Side Apply" in the Kubernetes documentation, and `sigs.k8s.io/structured-merge-diff` for the field sets.

mod compare;
mod element;
mod last_applied;
mod managers;
mod merge;
mod owned;
mod reconcile;
mod set;
mod walk;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::compare::{Changes, compare};
pub use self::managers::DecodeError;
use self::managers::{Entry, Managers, Operation};
use self::set::Set;
use crate::schema::Schema;
use crate::status::{Status, StatusCause};
use crate::{Object, meta};

/// The longest name of a manager, in bytes.
pub const MANAGER_MAX: usize = 128;
/// Who owns what an object had before it was applied for the first time, if nobody had been recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and what of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// `fieldManager` of the request; see [`manager_name`].
    pub name: String,
    /// The version in which the object is written: `v1`, `apps/v1`.
    pub api_version: String,
    /// The subresource written to, or "".
    pub subresource: String,
    /// Now.
    pub time: Timestamp,
    /// What this write can't change.
    pub reset: Reset,
}

/// The fields that a write can't change, and so doesn't own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// None.
    #[default]
    Nothing,
    /// The status, for the object itself where the kind has a `status` subresource.
    Status,
    /// All but metadata and status, for the `status` subresource.
    AllButStatus,
}

impl Reset {
    /// The reset fields of a write to the object itself (`subresource` is "") or below, for kinds with or without a
    /// `status` subresource.
    pub fn of(subresource: &str, has_status: bool) -> Self {
        match subresource {
            "" if has_status => Self::Status,
            "status" => Self::AllButStatus,
            _ => Self::Nothing,
        }
    }

    fn take_from(self, set: &mut Set) {
        match self {
            Self::Nothing => {}
            Self::Status => set.retain(|step| step != "f:status"),
            Self::AllButStatus => set.retain(|step| matches!(step, "f:status" | "f:metadata")),
        }
    }
}

/// The name of a request's manager: what it says, or else the first word of its user agent.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let product = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    let printable = |c: &char| !c.is_control() && (*c == ' ' || !c.is_whitespace());
    for c in product.chars().filter(printable) {
        if name.len() + c.len_utf8() > MANAGER_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// A field that somebody else owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who: `"kubectl" using apps/v1`.
    pub manager: String,
    /// Where: `.spec.replicas`.
    pub path: String,
}

/// Why a configuration can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is of another version than the request's path.
    #[error(
        "Incorrect version specified in apply patch. Specified patch version: {found}, expected: {expected}"
    )]
    Version {
        /// The configuration's `apiVersion`.
        found: String,
        /// The path's.
        expected: String,
    },
    /// The configuration says who owns what.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object ({object}): {mistakes}")]
    Configuration {
        /// Namespace, name and kind.
        object: String,
        /// What is wrong with it.
        mistakes: String,
    },
    /// The live object does not say in a readable way who owns what.
    #[error("failed to decode managed fields: {0}")]
    Live(#[from] DecodeError),
    /// Others own fields that would change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [Conflict { manager, path }] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines = Vec::new();
    let mut last = "";
    for Conflict { manager, path } in conflicts {
        if manager != last {
            lines.push(format!("conflicts with {manager}:"));
            last = manager;
        }
        lines.push(format!("- {path}"));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Version { .. } | ApplyError::ManagedFields => Self::bad_request(message),
            // Upstream has no word for these but the error's own.
            ApplyError::Configuration { .. } | ApplyError::Live(_) => Self::unknown(message),
            ApplyError::Conflicts(conflicts) => {
                let causes = conflicts.into_iter().map(|conflict| StatusCause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.path,
                });
                Self::apply_conflict(message, causes.collect())
            }
        }
    }
}

/// Records in `new` which fields `manager` took by creating it (`old` is `None`), or by replacing `old`.
///
/// `new` may bring its own `managedFields`, which a client may edit on the object itself; whatever makes no sense there, or is empty, is replaced
/// by those of `old`. A single empty entry resets the list, and an object without a list gets none by updates. Times
/// change for those only who took something.
pub fn track(schema: &Schema, old: Option<&Object>, new: &mut Object, manager: &Manager) {
    let given = meta::metadata_mut(new).remove("managedFields");
    let live = old.and_then(managed_fields);
    let given = given.filter(|_| manager.subresource.is_empty());
    if given.as_ref().is_some_and(is_reset) && old.is_some() {
        return;
    }
    let same = given.is_none() || given.as_ref() == live;
    let readable = given
        .filter(|_| !same)
        .and_then(|list| Managers::from_json(list).ok())
        .filter(|managers| !managers.0.is_empty());
    let changes = changes(schema, old, new, manager.reset);
    let mut managers = match (readable, live) {
        (Some(managers), _) => managers,
        (None, Some(live)) if changes.is_empty() => {
            meta::metadata_mut(new).insert("managedFields".to_owned(), live.clone());
            return;
        }
        (None, Some(list)) => {
            let live = old.unwrap_or(new);
            Managers::of(schema, live, list).unwrap_or_default()
        }
        (None, None) => Managers::default(),
    };
    if managers.0.is_empty() && old.is_some() {
        return;
    }
    update(&mut managers, changes, manager);
    managers.store(new);
}

fn managed_fields(object: &Object) -> Option<&Value> {
    let list = meta::at(object, &["metadata", "managedFields"])?;
    list.as_array().filter(|items| !items.is_empty())?;
    Some(list)
}

/// Whether this is the list by which a client asks for a new beginning: one entry that says nothing.
fn is_reset(list: &Value) -> bool {
    matches!(list.as_array().map(Vec::as_slice), Some([Value::Object(entry)]) if entry.is_empty())
}

/// What a write changed, as far as anybody can own it.
fn changes(schema: &Schema, old: Option<&Object>, new: &Object, reset: Reset) -> Changes {
    let none = Map::new();
    let mut changes = compare(schema, old.unwrap_or(&none), new);
    for set in [&mut changes.changed, &mut changes.removed] {
        reset.take_from(set);
        strip(set);
    }
    changes
}

/// Takes out what nobody owns: what the server itself sets, and what names the object.
fn strip(set: &mut Set) {
    const OF_METADATA: [&str; 9] = [
        "f:clusterName",
        "f:creationTimestamp",
        "f:generation",
        "f:managedFields",
        "f:name",
        "f:namespace",
        "f:resourceVersion",
        "f:selfLink",
        "f:uid",
    ];
    set.retain(|step| !matches!(step, "f:apiVersion" | "f:kind"));
    if set.get("f:metadata").is_some() {
        let metadata = set.enter("f:metadata");
        metadata.here = false;
        metadata.retain(|step| !OF_METADATA.contains(&step));
        if metadata.is_empty() {
            set.retain(|step| step != "f:metadata");
        }
    }
}

impl Manager {
    fn entry(&self, operation: Operation, fields: Set) -> Entry {
        let name = if self.name.is_empty() {
            "unknown"
        } else {
            &self.name
        };
        Entry {
            manager: name.to_owned(),
            operation,
            api_version: self.api_version.clone(),
            subresource: self.subresource.clone(),
            time: Some(self.time),
            fields,
        }
    }
}

/// Gives all that changed to `manager`.
fn update(managers: &mut Managers, changes: Changes, manager: &Manager) {
    let own = manager.entry(Operation::Update, Set::default());
    for entry in &mut managers.0 {
        if !entry.is(&own) {
            entry.fields.subtract(&changes.changed);
        }
        entry.fields.subtract(&changes.removed);
    }
    if !changes.changed.is_empty() {
        let at = managers.find(&own).unwrap_or_else(|| {
            managers.0.push(own);
            managers.0.len() - 1
        });
        let entry = &mut managers.0[at];
        entry.fields.unite(changes.changed);
        entry.time = Some(manager.time);
    }
    managers.tidy();
}

/// Applies `configuration` (as it was sent, without defaults) for `manager`: gives the object as it should be, for the
/// caller to decode, validate and store. The result is `live` itself if there is nothing to do.
///
/// With `force` the fields that others own are taken from them rather than being conflicts.
pub fn apply(
    schema: &Schema,
    live: Option<&Object>,
    configuration: &Object,
    manager: &Manager,
    force: bool,
) -> Result<Object, ApplyError> {
    let attempt = Attempt::new(schema, live, configuration, manager)?;
    let (mut object, managers) = attempt.run(force).or_else(|conflicts| {
        let left = last_applied::without_own(&attempt, live, conflicts);
        if left.is_empty() {
            attempt.run(true).map_err(ApplyError::Conflicts)
        } else {
            Err(ApplyError::Conflicts(left))
        }
    })?;
    last_applied::refresh(&mut object, configuration, manager);
    if let (Some(live), true) = (live, object == attempt.base && managers == attempt.before) {
        return Ok(live.clone());
    }
    managers.store(&mut object);
    Ok(object)
}

/// Refuses what no configuration may say.
fn check(configuration: &Object, manager: &Manager) -> Result<(), ApplyError> {
    let found = configuration
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if found != manager.api_version {
        return Err(ApplyError::Version {
            found: found.to_owned(),
            expected: manager.api_version.clone(),
        });
    }
    match meta::at(configuration, &["metadata", "managedFields"]) {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(ApplyError::ManagedFields),
    }
}

/// `namespace/name; group/version, Kind=kind`.
fn describe(object: &Object) -> String {
    let text = |field| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let api_version = text("apiVersion");
    let core = if api_version.contains('/') { "" } else { "/" };
    format!(
        "{}/{}; {core}{api_version}, Kind={}",
        meta::namespace(object),
        meta::name(object),
        text("kind")
    )
}

/// All that one apply is about.
struct Attempt<'a> {
    schema: &'a Schema,
    /// The live object without its managed fields.
    base: Object,
    before: Managers,
    configuration: &'a Object,
    /// The paths of the configuration.
    wanted: Set,
    manager: &'a Manager,
}

impl<'a> Attempt<'a> {
    fn new(
        schema: &'a Schema,
        live: Option<&Object>,
        configuration: &'a Object,
        manager: &'a Manager,
    ) -> Result<Self, ApplyError> {
        check(configuration, manager)?;
        let mistaken = |mistakes| ApplyError::Configuration {
            object: describe(configuration),
            mistakes,
        };
        let wanted = owned::owned(schema, configuration).map_err(mistaken)?;
        let mut base = live.cloned().unwrap_or_default();
        if let Some(Value::Object(metadata)) = base.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        let mut before = match live.and_then(managed_fields) {
            Some(list) => Managers::of(schema, &base, list)?,
            None => Managers::default(),
        };
        if before.0.is_empty() && live.is_some() {
            let nobody = Manager {
                name: BEFORE_FIRST_APPLY.to_owned(),
                ..manager.clone()
            };
            let all = changes(schema, None, &base, manager.reset);
            update(&mut before, all, &nobody);
        }
        Ok(Self {
            schema,
            base,
            before,
            configuration,
            wanted,
            manager,
        })
    }

    fn run(&self, force: bool) -> Result<(Object, Managers), Vec<Conflict>> {
        let mut managers = self.before.clone();
        let mut own = self.manager.entry(Operation::Apply, self.wanted.clone());
        self.manager.reset.take_from(&mut own.fields);
        let last = managers.find(&own).map(|at| managers.0.remove(at));
        let merged = merge::merge(self.schema, &self.base, self.configuration);
        let object = match &last {
            Some(last) => self.prune(&merged, &last.fields, &managers, &own.fields),
            None => merged,
        };
        let mut changes = compare(self.schema, &self.base, &object);
        for set in [&mut changes.changed, &mut changes.removed] {
            self.manager.reset.take_from(set);
        }
        let conflicts: Vec<Conflict> = managers
            .0
            .iter()
            .flat_map(|entry| conflicts(entry, &changes.changed))
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        for entry in &mut managers.0 {
            entry.fields.subtract(&changes.changed);
            entry.fields.subtract(&changes.removed);
        }
        strip(&mut own.fields);
        if let Some(last) = last
            && changes.is_empty()
            && (&last.fields, &last.api_version) == (&own.fields, &own.api_version)
        {
            own.time = last.time;
        }
        managers.0.push(own);
        managers.0.retain(|entry| !entry.fields.is_empty());
        managers.0.sort_by_key(|entry| self.before.find(entry));
        Ok((object, managers))
    }

    /// Takes out of `merged` what this manager applied the last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: &Object, last: &Set, others: &Managers, own: &Set) -> Object {
        let schema = self.schema;
        let last = merge::with_fields(schema, last);
        let mut kept = own.clone();
        for entry in &others.0 {
            kept.unite(entry.fields.clone());
        }
        let all = merge::with_fields(schema, &owned::paths(schema, merged));
        let members = |object: &Object| merge::with_fields(schema, &owned::paths(schema, object));
        // What is owned comes back, and what it is inside of with it.
        let mut stay = members(&merge::remove(schema, merged, &last));
        stay.unite(merge::with_fields(schema, &kept));
        let mut go = all.clone();
        go.subtract(&stay);
        let left = merge::remove(schema, merged, &go);
        // What was never this manager's to remove comes back, too.
        let mut gone = all;
        gone.subtract(&members(&left));
        merge::remove(schema, merged, &gone.intersection(&last))
    }
}

fn conflicts(entry: &Entry, changed: &Set) -> Vec<Conflict> {
    let paths = entry.fields.intersection(changed).paths();
    let conflict = |path| Conflict {
        manager: entry.describe(),
        path,
    };
    paths.into_iter().map(conflict).collect()
}

/// Whether a write changes nothing but times in `managedFields`, so that it need not be stored.
pub fn is_idle(old: &Object, new: &Object) -> bool {
    fn timeless(list: Option<&Value>) -> Vec<Object> {
        let items = list
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let mut entries: Vec<Object> = items.iter().filter_map(Value::as_object).cloned().collect();
        for entry in &mut entries {
            entry.remove("time");
        }
        entries
    }
    let parts_equal = |a: &Object, b: &Object, except: &str| {
        let others = |name: &&String| name.as_str() != except;
        a.keys().filter(others).count() == b.keys().filter(others).count()
            && a.iter()
                .filter(|(name, _)| name.as_str() != except)
                .all(|(name, value)| b.get(name) == Some(value))
    };
    let (Some(Value::Object(old_meta)), Some(Value::Object(new_meta))) =
        (old.get("metadata"), new.get("metadata"))
    else {
        return old == new;
    };
    parts_equal(old, new, "metadata") && parts_equal(old_meta, new_meta, "managedFields") && {
        let (mut a, mut b) = (
            timeless(old_meta.get("managedFields")),
            timeless(new_meta.get("managedFields")),
        );
        // Their order follows the times.
        let key = |entry: &Object| Value::Object(entry.clone()).to_string();
        a.sort_by_cached_key(key);
        b.sort_by_cached_key(key);
        a == b
    }
}

#[cfg(test)]
mod tests;
