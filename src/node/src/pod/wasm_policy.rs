//! `WasmPolicy` and `ClusterWasmPolicy`: what the modules of a pod may import, whom they may call and what they may have.
//!
//! As with network policies, a pod is held to what the policies that select it speak of, and to nothing else: if some of
//! them say which imports are granted, it may import what one of them grants. Of bounds the strictest counts. Policies of the
//! cluster are its defaults: they count for pods that no policy of their namespace selects. They are read when a container
//! starts: a change counts from the next start on.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde::Deserialize;
use vaquita_api::quantity::Quantity;
use vaquita_backends::Grants;

/// The most policies that a namespace may have, or the cluster: all of them have to be looked at.
const MOST: u32 = 100;

/// Why it is not known what a pod may do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantsError {
    #[error("cannot read the WasmPolicies: {0}")]
    Api(#[from] kube::Error),
    #[error("there are more than {MOST} {0}: that is too many to look at")]
    TooMany(String),
}

static OF_NAMESPACES: LazyLock<ApiResource> =
    LazyLock::new(|| resource("WasmPolicy", "wasmpolicies"));
static OF_CLUSTER: LazyLock<ApiResource> =
    LazyLock::new(|| resource("ClusterWasmPolicy", "clusterwasmpolicies"));

fn resource(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("vaquita.dev", "v1alpha1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// `spec` of a policy. What is absent is not spoken of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    /// Of the cluster's policies: the namespaces whose pods it is for. Absent: all.
    namespace_selector: Option<LabelSelector>,
    pod_selector: LabelSelector,
    imports: Option<Vec<String>>,
    hosts: Option<Vec<String>>,
    names: Option<Vec<String>>,
    environment: Option<Vec<String>>,
    bounds: Bounds,
}

impl Spec {
    /// What a policy says that cannot be read: nothing is granted.
    fn nothing() -> Self {
        Self {
            imports: Some(Vec::new()),
            hosts: Some(Vec::new()),
            names: Some(Vec::new()),
            environment: Some(Vec::new()),
            ..Self::default()
        }
    }
}

/// What a container may have at the most.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bounds {
    memory: Option<IntOrString>,
    open_files: Option<u32>,
    threads: Option<u32>,
}

/// What policies of a kind grant together.
fn granted_by(kind: &str, policies: Vec<(String, Spec)>) -> Grants {
    let mut grants = Grants::default();
    let mut names = Vec::new();
    for (name, spec) in policies {
        names.push(name);
        add(&mut grants.imports, spec.imports);
        add(&mut grants.hosts, spec.hosts);
        add(&mut grants.names, spec.names);
        add(&mut grants.environment, spec.environment);
        let memory = spec.bounds.memory.map(|memory| bytes(&memory));
        grants.memory = least(grants.memory, memory);
        grants.open_files = least(grants.open_files, spec.bounds.open_files);
        grants.threads = least(grants.threads, spec.bounds.threads);
    }
    grants.by = format!("{kind} {}", names.join(", "));
    grants
}

/// What is granted by one policy is granted; what none speaks of is not restricted.
fn add(granted: &mut Option<Vec<String>>, more: Option<Vec<String>>) {
    if let Some(more) = more {
        granted.get_or_insert_default().extend(more);
    }
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What cannot be read is none.
fn bytes(quantity: &IntOrString) -> u64 {
    let bytes = match quantity {
        IntOrString::Int(bytes) => i64::from(*bytes),
        IntOrString::String(text) => {
            let parsed: Option<Quantity> = text.parse().ok();
            parsed.map_or(0, vaquita_api::quantity::Quantity::value)
        }
    };
    u64::try_from(bytes).unwrap_or(0)
}

/// Finds the policies that select a pod, and what they grant.
pub(crate) async fn grants(client: &Client, pod: &Pod) -> Result<Grants, GrantsError> {
    let namespace = pod.namespace().unwrap_or_default();
    let own = Api::namespaced_with(client.clone(), &namespace, &*OF_NAMESPACES);
    let selecting = of_pod(list(&own, &OF_NAMESPACES).await?, pod);
    if !selecting.is_empty() {
        return Ok(granted_by("WasmPolicy", selecting));
    }
    let defaults = Api::all_with(client.clone(), &*OF_CLUSTER);
    let mut selecting = of_pod(list(&defaults, &OF_CLUSTER).await?, pod);
    let is_choosy = |(_, spec): &(String, Spec)| spec.namespace_selector.is_some();
    if selecting.iter().any(is_choosy) {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let labels = namespaces.get(&namespace).await?.metadata.labels;
        let labels = labels.unwrap_or_default();
        selecting.retain(|(_, spec)| {
            let selector = spec.namespace_selector.as_ref();
            selector.is_none_or(|selector| selects(selector, &labels))
        });
    }
    if selecting.is_empty() {
        return Ok(Grants::default());
    }
    Ok(granted_by("ClusterWasmPolicy", selecting))
}

async fn list(
    policies: &Api<DynamicObject>,
    kind: &ApiResource,
) -> Result<Vec<DynamicObject>, GrantsError> {
    match policies.list(&ListParams::default().limit(MOST)).await {
        Ok(found)
            if found
                .metadata
                .continue_
                .as_ref()
                .is_some_and(|more| !more.is_empty()) =>
        {
            Err(GrantsError::TooMany(kind.plural.clone()))
        }
        Ok(found) => Ok(found.items),
        // The cluster does not have the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The policies whose `podSelector` selects the pod. One that cannot be read selects everything and grants nothing.
fn of_pod(policies: Vec<DynamicObject>, pod: &Pod) -> Vec<(String, Spec)> {
    let of_pod = |policy: DynamicObject| {
        let spec = serde_json::from_value(policy.data["spec"].clone());
        let spec: Spec = spec.unwrap_or_else(|_| Spec::nothing());
        selects(&spec.pod_selector, pod.labels()).then(|| (policy.name_any(), spec))
    };
    policies.into_iter().filter_map(of_pod).collect()
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut equal = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    equal.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|wanted| {
            let value = labels.get(&wanted.key);
            let values = wanted.values.as_deref().unwrap_or_default();
            match wanted.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use vaquita_backends::Resources;

    use super::*;

    /// What policies with these specs grant a pod of the application `web`; `None` if none selects it.
    fn granted(specs: &[Value]) -> Option<Grants> {
        let policies = specs.iter().enumerate().map(|(number, spec)| {
            let policy = json!({"metadata": {"name": format!("p{number}")}, "spec": spec});
            serde_json::from_value(policy).unwrap()
        });
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let selecting = of_pod(policies.collect(), &pod);
        (!selecting.is_empty()).then(|| granted_by("WasmPolicy", selecting))
    }

    #[test]
    fn an_import_that_nobody_grants_is_named() {
        let imports = ["wasi:cli/stdout@0.2.0", "wasi:sockets/tcp@0.2.0"].map(str::to_owned);
        assert_eq!(Grants::default().check(&imports), Ok(()));
        let strict = json!({"imports": ["wasi:cli/*", "wasi:io/poll"]});
        let grants = granted(std::slice::from_ref(&strict)).unwrap();
        assert_eq!(
            grants.check(&imports).unwrap_err(),
            "import wasi:sockets/tcp@0.2.0 is not granted by WasmPolicy p0"
        );
        assert_eq!(grants.check(&imports[..1]), Ok(()));
        let more = json!({"imports": ["wasi:sockets/tcp"]});
        let both = granted(&[strict.clone(), more]).unwrap();
        assert_eq!(both.check(&imports), Ok(()));
        // One that speaks of something else grants no imports.
        let other = json!({"hosts": ["example.com"]});
        assert!(granted(&[strict, other]).unwrap().check(&imports).is_err());
    }

    #[test]
    fn policies_choose_pods_by_label() {
        let selector = |selector| granted(&[json!({"podSelector": selector})]).is_some();
        assert!(selector(json!({})));
        assert!(selector(json!({"matchLabels": {"app": "web"}})));
        assert!(!selector(json!({"matchLabels": {"app": "db"}})));
        let expression = json!([{"key": "app", "operator": "NotIn", "values": ["web"]}]);
        assert!(!selector(json!({"matchExpressions": expression})));
        // What cannot be read grants nothing.
        let broken = granted(&[json!({"imports": 1})]).unwrap();
        assert!(broken.check(&["wasi:cli/exit".to_owned()]).is_err());
        assert_eq!(broken.capabilities().hosts, Some(Vec::new()));
    }

    #[test]
    fn hosts_and_names_are_left_to_the_runtime() {
        let silent = granted(&[json!({"imports": []})]).unwrap().capabilities();
        assert_eq!((silent.hosts, silent.names), (None, None));
        let grants = granted(&[
            json!({"hosts": ["a:443"], "names": []}),
            json!({"hosts": ["b"]}),
        ]);
        let capabilities = grants.unwrap().capabilities();
        assert_eq!(
            capabilities.hosts,
            Some(vec!["a:443".to_owned(), "b".to_owned()])
        );
        assert_eq!(capabilities.names, Some(Vec::new()));
        assert_eq!(capabilities.granted_by, "WasmPolicy p0, p1");
    }

    #[test]
    fn bounds_are_the_strictest_and_variables_those_that_are_granted() {
        let grants = granted(&[
            json!({"bounds": {"memory": "64Mi", "openFiles": 8, "threads": 4}, "environment": ["APP_*"]}),
            json!({"bounds": {"memory": "32Mi", "threads": 1}, "environment": ["HOME"]}),
        ]);
        let grants = grants.unwrap();
        assert_eq!((grants.open_files, grants.threads), (Some(8), Some(1)));
        let limited = |memory_limit| {
            let resources = Resources {
                memory_limit,
                ..Resources::default()
            };
            grants.bound(resources).map(|bound| bound.memory_limit)
        };
        assert_eq!(limited(None), Ok(Some(32 << 20)));
        assert_eq!(limited(Some(1 << 20)), Ok(Some(1 << 20)));
        assert_eq!(
            limited(Some(64 << 20)).unwrap_err(),
            "a memory limit of 67108864 bytes is more than the 33554432 that WasmPolicy p0, p1 allows"
        );
        let pair = |name: &str| (name.to_owned(), String::new());
        let mut environment = vec![pair("APP_KEY"), pair("HOME"), pair("HOMEPAGE"), pair("X")];
        grants.filter(&mut environment);
        assert_eq!(environment, [pair("APP_KEY"), pair("HOME")]);
    }
}
