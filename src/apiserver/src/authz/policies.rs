//! The policy that the roles and bindings in the cache make.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use vaquita_auth::rbac::{Binding, Policy, Role, RoleRef, Rule, Subject};
use vaquita_store::Revision;

use vaquita_cache::{Cache, Snapshot, entry::Entry, resource_prefix};

const GROUP: &str = "rbac.authorization.k8s.io";
/// The collections of roles, then those of bindings.
const ROLES: [&str; 2] = ["clusterroles", "roles"];
const BINDINGS: [&str; 2] = ["clusterrolebindings", "rolebindings"];

/// The present policy, and what it was made of.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    current: ArcSwapOption<Current>,
    /// Held while the policy is made anew.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Current {
    /// When each collection changed last.
    revisions: [Revision; 4],
    policy: Arc<Policy>,
}

/// Roles and bindings that were read before, so that a change of one costs reading one.
#[derive(Debug, Default)]
struct Known {
    roles: HashMap<Bytes, (Revision, Arc<Role>)>,
    bindings: HashMap<Bytes, (Revision, Arc<Binding>)>,
}

impl Policies {
    /// The policy of what `cache` holds now.
    pub(crate) fn current(&self, cache: &Cache) -> Arc<Policy> {
        let snapshots = snapshots(cache);
        let revisions = snapshots.each_ref().map(changed);
        if let Some(policy) = self.of(revisions) {
            return policy;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = self.of(revisions) {
            return policy;
        }
        let [cluster_roles, roles, cluster_bindings, bindings] = &snapshots;
        known.roles = read([cluster_roles, roles], &known.roles, role);
        known.bindings = read([cluster_bindings, bindings], &known.bindings, binding);
        let policy = Arc::new(Policy::new(
            known.roles.values().map(|(_, role)| role.clone()),
            in_order(&known.bindings),
        ));
        self.current.store(Some(Arc::new(Current {
            revisions,
            policy: policy.clone(),
        })));
        policy
    }

    fn of(&self, revisions: [Revision; 4]) -> Option<Arc<Policy>> {
        let current = self.current.load();
        let current = current.as_ref()?;
        // One that is newer than what we saw is as good: it was made since we looked.
        let is_recent = current
            .revisions
            .iter()
            .zip(revisions)
            .all(|(made, wanted)| *made >= wanted);
        is_recent.then(|| current.policy.clone())
    }
}

type Collected = Option<(Snapshot, Bytes)>;

fn snapshots(cache: &Cache) -> [Collected; 4] {
    let [cluster_roles, roles] = ROLES;
    let [cluster_bindings, bindings] = BINDINGS;
    [cluster_roles, roles, cluster_bindings, bindings].map(|plural| {
        let collection = cache.collection(&resource_prefix(GROUP, plural))?;
        Some((collection.snapshot(), collection.prefix().clone()))
    })
}

fn changed(collected: &Collected) -> Revision {
    collected
        .as_ref()
        .map_or(0, |(snapshot, _)| snapshot.changed)
}

/// Everything in two collections, taken from `before` where it has not changed.
fn read<T>(
    from: [&Collected; 2],
    before: &HashMap<Bytes, (Revision, Arc<T>)>,
    parse: fn(&Entry) -> Option<T>,
) -> HashMap<Bytes, (Revision, Arc<T>)> {
    let entries = from
        .into_iter()
        .flatten()
        .flat_map(|(snapshot, prefix)| snapshot.range(prefix, None));
    entries
        .filter_map(|entry| {
            let read = match before.get(&entry.key) {
                Some((revision, read)) if *revision == entry.revision => read.clone(),
                _ => Arc::new(parse(entry)?),
            };
            Some((entry.key.clone(), (entry.revision, read)))
        })
        .collect()
}

/// Sorted, so that of several bindings which allow something always the same one is named.
fn in_order(known: &HashMap<Bytes, (Revision, Arc<Binding>)>) -> Vec<Arc<Binding>> {
    let mut bindings: Vec<Arc<Binding>> =
        known.values().map(|(_, binding)| binding.clone()).collect();
    bindings.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    bindings
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct RoleObject {
    metadata: Metadata,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    metadata: Metadata,
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
}

fn role(entry: &Entry) -> Option<Role> {
    let RoleObject { metadata, rules } = object(entry)?;
    Some(Role {
        namespace: metadata.namespace,
        name: metadata.name,
        rules: rules.unwrap_or_default(),
    })
}

fn binding(entry: &Entry) -> Option<Binding> {
    let BindingObject {
        metadata,
        role_ref,
        subjects,
    } = object(entry)?;
    Some(Binding {
        namespace: metadata.namespace,
        name: metadata.name,
        role: role_ref,
        subjects: subjects.unwrap_or_default(),
    })
}

/// What was validated before it was stored can be read. What cannot gives nothing to anybody.
fn object<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(entry.json())
        .inspect_err(|error| {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            tracing::error!(key, %error, "a role or binding cannot be read and is left out");
        })
        .ok()
}
