//! From a definition to the resources that serve its versions.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
};
use serde_json::Value;
use vaquita_api::registry::{
    self, Resource, ScalePaths, SelectableField, Storage, Subresource, Verb,
};
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::columns::Columns;
use crate::custom::Custom;
use crate::jsonpath::JsonPath;
use crate::rules::RuleSet;
use crate::shape;
use crate::structural::Node;

/// Why a definition can't be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// No version is marked as the one in which objects are stored.
    #[error("the definition has no storage version")]
    NoStorageVersion,
    /// A version has no schema, without which all its fields would be dropped.
    #[error("version {0:?} has no schema")]
    NoSchema(String),
}

/// What a definition comes to.
#[derive(Debug)]
pub struct Compiled {
    /// One resource for each version that is served.
    pub resources: Vec<Resource>,
}

/// Asks whoever knows how to make an object of one version that of another.
///
/// What comes back has been checked by nobody; see [`compile`].
pub trait Convert: Send + Sync {
    /// The object in the version that `api_version` names.
    fn convert(&self, object: &Object, api_version: &str) -> Result<Object, Status>;
    /// How many objects it converts together at most in [`foresee`](Self::foresee).
    fn foresight(&self) -> usize;
    /// Converts what is about to be asked for one by one, and keeps it until then.
    fn foresee(&self, objects: Vec<Object>, api_version: &str);
}

/// Makes the resources of a definition. Objects of one version become those of another by `convert`, or without it by
/// changing `apiVersion` and nothing else.
pub fn compile(
    definition: &CustomResourceDefinition,
    convert: Option<Arc<dyn Convert>>,
) -> Result<Compiled, CompileError> {
    let spec = &definition.spec;
    let storage = spec
        .versions
        .iter()
        .find(|version| version.storage)
        .ok_or(CompileError::NoStorageVersion)?;
    let mut nodes: HashMap<String, Arc<Node>> = HashMap::new();
    for version in &spec.versions {
        let schema = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref())
            .ok_or_else(|| CompileError::NoSchema(version.name.clone()))?;
        let api_version = format!("{}/{}", spec.group, version.name);
        nodes.insert(api_version, Arc::new(Node::compile(schema)));
    }
    let views = Views {
        nodes,
        storage: format!("{}/{}", spec.group, storage.name),
        kind: spec.names.kind.clone(),
        convert,
    };
    let stored_as_is = is_stored_as_is(definition, storage, &views);
    let views = Arc::new(views);
    let served = spec.versions.iter().filter(|version| version.served);
    let resources = served.map(|version| {
        let storage = if stored_as_is {
            Storage::Own
        } else {
            Storage::Versions {
                stored: version.storage,
                convert: Arc::new(View {
                    views: views.clone(),
                    api_version: format!("{}/{}", spec.group, version.name),
                }),
            }
        };
        resource(definition, version, &views, storage)
    });
    Ok(Compiled {
        resources: resources.collect(),
    })
}

/// Whether every object in the store is as it is shown: there has only ever been one version, and what its schema says by
/// default has been in every object from the start.
fn is_stored_as_is(
    definition: &CustomResourceDefinition,
    storage: &CustomResourceDefinitionVersion,
    views: &Views,
) -> bool {
    let stored = definition
        .status
        .as_ref()
        .and_then(|status| status.stored_versions.as_deref())
        .unwrap_or(&[]);
    let one_version =
        definition.spec.versions.len() == 1 && stored.iter().all(|name| *name == storage.name);
    let unchanged = definition.metadata.generation.unwrap_or(1) <= 1;
    let no_defaults = views.nodes.values().all(|node| !node.has_defaults());
    one_version && (unchanged || no_defaults)
}

fn resource(
    definition: &CustomResourceDefinition,
    version: &CustomResourceDefinitionVersion,
    views: &Views,
    storage: Storage,
) -> Resource {
    let spec = &definition.spec;
    let names = definition
        .status
        .as_ref()
        .and_then(|status| status.accepted_names.as_ref())
        .filter(|names| !names.kind.is_empty())
        .unwrap_or(&spec.names);
    let api_version = format!("{}/{}", spec.group, version.name);
    let node = views.nodes.get(&api_version).cloned().unwrap_or_default();
    let subresources = version.subresources.as_ref();
    let has_status = subresources.is_some_and(|subresources| subresources.status.is_some());
    let scale = subresources.and_then(|subresources| subresources.scale.as_ref());
    let open_api = version
        .schema
        .as_ref()
        .and_then(|schema| serde_json::to_value(&schema.open_api_v3_schema).ok());
    let columns = version.additional_printer_columns.as_deref().unwrap_or(&[]);
    let namespaced = spec.scope == "Namespaced";
    let mut selectable = vec![SelectableField::NAME];
    selectable.extend(namespaced.then_some(SelectableField::NAMESPACE));
    for field in version.selectable_fields.iter().flatten() {
        let label = field.json_path.trim_start_matches('.').to_owned();
        let path = label.split('.').map(str::to_owned).collect();
        selectable.push(SelectableField::custom(label, path));
    }
    Resource {
        group: spec.group.clone(),
        version: version.name.clone(),
        kind: names.kind.clone(),
        list_kind: names
            .list_kind
            .clone()
            .unwrap_or_else(|| format!("{}List", names.kind)),
        plural: spec.names.plural.clone(),
        singular: names.singular.clone().unwrap_or_default(),
        short_names: names.short_names.clone().unwrap_or_default(),
        categories: names.categories.clone().unwrap_or_default(),
        namespaced,
        verbs: Verb::ALL.to_vec(),
        subresources: declared(
            spec.group.as_str(),
            version,
            names.kind.as_str(),
            has_status,
            scale,
        ),
        scale: scale.map(paths),
        selectable,
        storage,
        rules: Box::new(Custom {
            rules: RuleSet::compile(&node, true),
            schema: shape::of(&names.kind, &node),
            columns: Columns::new(columns),
            open_api: open_api.unwrap_or(Value::Null),
            deprecation: deprecation(definition, version),
            has_status,
            node,
        }),
    }
}

fn declared(
    group: &str,
    version: &CustomResourceDefinitionVersion,
    kind: &str,
    has_status: bool,
    scale: Option<&CustomResourceSubresourceScale>,
) -> Vec<Subresource> {
    let verbs = [Verb::Get, Verb::Patch, Verb::Update];
    let sub = |name: &str, [group, version, kind]: [&str; 3]| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs.to_vec(),
    };
    let status = has_status.then(|| sub("status", [group, &version.name, kind]));
    let scale = scale.map(|_| sub("scale", ["autoscaling", "v1", "Scale"]));
    status.into_iter().chain(scale).collect()
}

fn paths(scale: &CustomResourceSubresourceScale) -> ScalePaths {
    let names = |text: &str| {
        let path = JsonPath::parse(text).ok();
        path.and_then(|path| path.names()).unwrap_or_default()
    };
    ScalePaths {
        replicas: names(&scale.spec_replicas_path),
        status_replicas: names(&scale.status_replicas_path),
        selector: names(scale.label_selector_path.as_deref().unwrap_or_default()),
    }
}

/// What clients of a deprecated version are told.
fn deprecation(
    definition: &CustomResourceDefinition,
    version: &CustomResourceDefinitionVersion,
) -> Option<String> {
    if !version.deprecated.unwrap_or_default() {
        return None;
    }
    if let Some(warning) = &version.deprecation_warning {
        return Some(warning.clone());
    }
    let (group, kind) = (&definition.spec.group, &definition.spec.names.kind);
    let message = format!("{group}/{} {kind} is deprecated", version.name);
    let better = definition
        .spec
        .versions
        .iter()
        .filter(|other| other.served && !other.deprecated.unwrap_or_default())
        .map(|other| other.name.as_str())
        .filter(|other| compare_versions(other, &version.name).is_gt())
        .max_by(|a, b| compare_versions(a, b));
    Some(match better {
        Some(better) => format!("{message}; use {group}/{better} {kind}"),
        None => message,
    })
}

/// The order of versions: `v1` before `v1beta1` before `v1alpha1`, larger numbers first, anything else by name at the end.
fn compare_versions(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (major, rest) = rest.split_at(end);
        let major = major.parse().ok()?;
        let stage = |name: &str| rest.strip_prefix(name)?.parse().ok();
        match (rest, stage("beta"), stage("alpha")) {
            ("", ..) => Some((2, major, 0)),
            (_, Some(minor), _) => Some((1, major, minor)),
            (_, _, Some(minor)) => Some((0, major, minor)),
            _ => None,
        }
    }
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// All versions of a kind.
struct Views {
    /// The shapes, by `group/version`.
    nodes: HashMap<String, Arc<Node>>,
    /// The version in which objects are stored.
    storage: String,
    kind: String,
    convert: Option<Arc<dyn Convert>>,
}

/// One version of a kind, as a view of what is stored.
struct View {
    views: Arc<Views>,
    api_version: String,
}

impl Views {
    /// Makes an object one of `api_version`.
    fn converted(&self, mut object: Object, api_version: &str) -> Result<Object, Status> {
        let from = object.get("apiVersion").and_then(Value::as_str);
        if from == Some(api_version) {
            return Ok(object);
        }
        let Some(convert) = &self.convert else {
            object.insert("apiVersion".to_owned(), api_version.into());
            return Ok(object);
        };
        let converted = convert.convert(&object, api_version)?;
        self.checked(&object, converted, api_version)
    }

    /// A converted object is still the same one: only what is in its labels and annotations may have changed of its
    /// metadata.
    fn checked(
        &self,
        before: &Object,
        mut after: Object,
        api_version: &str,
    ) -> Result<Object, Status> {
        let refuse = |why: String| {
            let from = before
                .get("apiVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            Status::internal(format!(
                "conversion webhook for {from}, Kind={} returned invalid object: {why}",
                self.kind
            ))
        };
        let got = after.get("apiVersion").and_then(Value::as_str);
        if got != Some(api_version) {
            let got = got.unwrap_or_default();
            return Err(refuse(format!(
                "invalid groupVersion (expected {api_version}, received {got})"
            )));
        }
        let kind = after
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if kind != self.kind {
            return Err(refuse(format!(
                "must have the same kind: {} != {kind}",
                self.kind
            )));
        }
        for (name, get) in [
            ("name", meta::name as fn(&Object) -> &str),
            ("namespace", meta::namespace),
            ("UID", meta::uid),
        ] {
            if get(before) != get(&after) {
                return Err(refuse(format!(
                    "must have the same {name}: {} != {}",
                    get(before),
                    get(&after)
                )));
            }
        }
        let changed = ["labels", "annotations"].map(|field| {
            let value = meta::at(&after, &["metadata", field]).cloned();
            (field, value)
        });
        if let Some(metadata) = before.get("metadata") {
            after.insert("metadata".to_owned(), metadata.clone());
        }
        let metadata = meta::metadata_mut(&mut after);
        for (field, value) in changed {
            match value {
                Some(value) => metadata.insert(field.to_owned(), value),
                None => metadata.remove(field),
            };
        }
        Ok(after)
    }
}

impl View {
    /// A stored object with the defaults that its own version has by now.
    fn with_defaults(&self, object: Object) -> Object {
        let stored = object
            .get("apiVersion")
            .and_then(Value::as_str)
            .and_then(|api_version| self.views.nodes.get(api_version));
        match stored.filter(|node| node.has_defaults()) {
            Some(node) => {
                let mut value = Value::Object(object);
                // What does not fit in is left out: the object is there all the same.
                let _ = node.fill_defaults(&mut value);
                match value {
                    Value::Object(object) => object,
                    _ => Object::new(),
                }
            }
            None => object,
        }
    }
}

impl registry::Convert for View {
    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        let object = self.with_defaults(object);
        self.views.converted(object, &self.api_version)
    }

    fn foresight(&self) -> usize {
        let convert = self.views.convert.as_ref();
        convert.map_or(0, |convert| convert.foresight())
    }

    fn foresee(&self, mut objects: Vec<Object>) {
        let Some(convert) = &self.views.convert else {
            return;
        };
        objects.retain(|object| {
            let from = object.get("apiVersion").and_then(Value::as_str);
            from != Some(&self.api_version)
        });
        let objects = objects.into_iter().map(|object| self.with_defaults(object));
        convert.foresee(objects.collect(), &self.api_version);
    }

    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        let same = self.api_version == self.views.storage;
        let object = self.views.converted(object, &self.views.storage)?;
        if same {
            return Ok(object);
        }
        let Some(node) = self.views.nodes.get(&self.views.storage) else {
            return Ok(object);
        };
        let mut value = Value::Object(object);
        node.prune(&mut value);
        match value {
            Value::Object(object) => Ok(object),
            _ => Ok(Object::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::compare_versions;

    #[test]
    fn orders_versions() {
        let mut versions = ["v1alpha1", "v2", "foo", "v1", "v10beta3", "v1beta2"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            ["v2", "v1", "v10beta3", "v1beta2", "v1alpha1", "foo"]
        );
    }
}
