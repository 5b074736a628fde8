//! The objects in `policies/`, read once for the process.

use std::sync::LazyLock;

use serde::Deserialize as _;
use serde_json::{Value, json};
use vaquita_api::{Object, meta};

use super::{super::Server, BootstrapError};
use vaquita_cache::resource_prefix;

/// The files, by name.
const FILES: [(&str, &str); 12] = [
    (
        "namespaces",
        include_str!("../../../../../policies/namespaces.yaml"),
    ),
    (
        "service-accounts",
        include_str!("../../../../../policies/service-accounts.yaml"),
    ),
    (
        "cluster-roles",
        include_str!("../../../../../policies/cluster-roles.yaml"),
    ),
    (
        "component-roles",
        include_str!("../../../../../policies/component-roles.yaml"),
    ),
    (
        "controller-roles",
        include_str!("../../../../../policies/controller-roles.yaml"),
    ),
    (
        "namespace-roles",
        include_str!("../../../../../policies/namespace-roles.yaml"),
    ),
    (
        "flow-control",
        include_str!("../../../../../policies/flow-control.yaml"),
    ),
    (
        "priority-classes",
        include_str!("../../../../../policies/priority-classes.yaml"),
    ),
    (
        "runtime-classes",
        include_str!("../../../../../policies/runtime-classes.yaml"),
    ),
    (
        "storage-classes",
        include_str!("../../../../../policies/storage-classes.yaml"),
    ),
    (
        "ingress-classes",
        include_str!("../../../../../policies/ingress-classes.yaml"),
    ),
    (
        "wasm-policy",
        include_str!("../../../../../policies/wasm-policy.yaml"),
    ),
];

/// The group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";
/// On every role and binding from here.
const LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// Whoever sets this to "false" keeps a role or binding as they made it.
pub(super) const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

static ALL: LazyLock<Result<Vec<Manifest>, String>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (file, text) in FILES {
        let read = read(text).map_err(|error| format!("policies/{file}.yaml: {error}"))?;
        all.extend(read);
    }
    Ok(all)
});

/// Every object, in the order of the files.
pub(super) fn all() -> Result<&'static [Manifest], BootstrapError> {
    match &*ALL {
        Ok(all) => Ok(all),
        Err(message) => Err(BootstrapError {
            path: "policies".to_owned(),
            message: message.clone(),
        }),
    }
}

/// An object, and where it belongs.
#[derive(Debug)]
pub(super) struct Manifest {
    group: String,
    version: String,
    /// The plural.
    resource: String,
    object: Object,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("an object has no {0}")]
    Without(&'static str),
}

/// The objects in a file, which may hold several documents and lists.
pub(super) fn read(text: &str) -> Result<Vec<Manifest>, ReadError> {
    let mut read = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut document = Object::deserialize(document)?;
        let field = |name: &'static str| {
            document
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or(ReadError::Without(name))
        };
        let (version, kind) = (field("apiVersion")?, field("kind")?);
        let Some(kind) = kind.strip_suffix("List") else {
            read.push(Manifest::new(&version, &kind, document)?);
            continue;
        };
        let Some(Value::Array(items)) = document.remove("items") else {
            return Err(ReadError::Without("items"));
        };
        for item in items {
            let Value::Object(item) = item else {
                return Err(ReadError::Without("fields"));
            };
            read.push(Manifest::new(&version, kind, item)?);
        }
    }
    Ok(read)
}

impl Manifest {
    fn new(api_version: &str, kind: &str, mut object: Object) -> Result<Self, ReadError> {
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), kind.into());
        if meta::name(&object).is_empty() {
            return Err(ReadError::Without("name"));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group == RBAC {
            let metadata = meta::metadata_mut(&mut object);
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            labels[LABEL.0] = LABEL.1.into();
            metadata.insert("annotations".to_owned(), json!({AUTO_UPDATE: "true"}));
        }
        let mut resource = kind.to_lowercase();
        resource.push_str(if resource.ends_with('s') { "es" } else { "s" });
        Ok(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource,
            object,
        })
    }

    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    pub(super) fn resource(&self) -> &str {
        &self.resource
    }

    pub(super) fn name(&self) -> &str {
        meta::name(&self.object)
    }

    pub(super) fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }

    /// Whether the server knows the kind.
    pub(super) fn is_served(&self, server: &Server) -> bool {
        server
            .served(&self.group, &self.version, &self.resource)
            .is_some()
    }

    /// The path to create it at.
    pub(super) fn collection(&self) -> String {
        let group = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match meta::namespace(&self.object) {
            "" => format!("{group}/{}", self.resource),
            namespace => format!("{group}/namespaces/{namespace}/{}", self.resource),
        }
    }

    /// The object of its name, if there is one.
    pub(super) fn present(&self, server: &Server) -> Option<Object> {
        let collection = server
            .cache
            .collection(&resource_prefix(&self.group, &self.resource))?;
        let namespace =
            Some(meta::namespace(&self.object)).filter(|namespace| !namespace.is_empty());
        let entry = collection.get(&collection.key(namespace, self.name()))?;
        entry.value().ok()
    }
}
