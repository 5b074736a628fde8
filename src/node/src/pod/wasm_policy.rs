//! `WasmPolicy`: what the modules of a pod may import.
//!
//! As with network policies, a pod that no policy selects may import all that there is; one that is selected may import
//! what one of its policies grants, and nothing else. The policies are read when a container starts: a change counts from
//! the next start on.

use std::sync::LazyLock;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde::Deserialize;

/// The most policies that are looked at for a pod.
const MOST: u32 = 100;

static RESOURCE: LazyLock<ApiResource> = LazyLock::new(|| {
    let kind = GroupVersionKind::gvk("vaquita.dev", "v1alpha1", "WasmPolicy");
    ApiResource::from_gvk_with_plural(&kind, "wasmpolicies")
});

/// `spec` of a policy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    pod_selector: LabelSelector,
    imports: Vec<String>,
}

/// What the modules of a pod may import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Grants {
    /// No policy selects the pod.
    #[default]
    All,
    /// What one of these allows.
    Of(Vec<Grant>),
}

/// What one policy grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    policy: String,
    patterns: Vec<String>,
}

impl Grants {
    /// Refuses the first import that is not granted, in words for the module's author.
    pub(crate) fn check(&self, imports: &[String]) -> Result<(), String> {
        let Self::Of(grants) = self else {
            return Ok(());
        };
        let is_granted = |import: &String| {
            let mut patterns = grants.iter().flat_map(|grant| &grant.patterns);
            patterns.any(|pattern| matches(pattern, import))
        };
        let Some(refused) = imports.iter().find(|import| !is_granted(import)) else {
            return Ok(());
        };
        let policies: Vec<&str> = grants.iter().map(|grant| grant.policy.as_str()).collect();
        Err(format!(
            "import {refused} is not granted by WasmPolicy {}",
            policies.join(", ")
        ))
    }
}

/// A pattern is an import's name, or its beginning followed by `*`. The version may be left away.
fn matches(pattern: &str, import: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return import.starts_with(start);
    }
    let unversioned = import.split_once('@').map_or(import, |(name, _)| name);
    pattern == import || pattern == unversioned
}

/// Finds the policies that select a pod.
pub(crate) async fn grants(client: &Client, pod: &Pod) -> Result<Grants, kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let policies: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &*RESOURCE);
    let found = match policies.list(&ListParams::default().limit(MOST)).await {
        Ok(found) => found,
        // The cluster does not have the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Grants::All),
        Err(error) => return Err(error),
    };
    let selecting: Vec<Grant> = found
        .into_iter()
        .filter_map(|policy| grant(&policy, pod))
        .collect();
    Ok(if selecting.is_empty() {
        Grants::All
    } else {
        Grants::Of(selecting)
    })
}

/// What a policy grants a pod, if it selects it. One that cannot be read selects everything and grants nothing.
fn grant(policy: &DynamicObject, pod: &Pod) -> Option<Grant> {
    let spec: Option<Spec> = serde_json::from_value(policy.data["spec"].clone()).ok();
    if let Some(spec) = &spec
        && !selects(&spec.pod_selector, pod)
    {
        return None;
    }
    Some(Grant {
        policy: policy.name_any(),
        patterns: spec.unwrap_or_default().imports,
    })
}

fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    let labels = pod.labels();
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
    use serde_json::json;

    use super::*;

    fn granted(spec: &serde_json::Value) -> Option<Grant> {
        let policy = json!({"metadata": {"name": "strict"}, "spec": spec});
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}});
        grant(
            &serde_json::from_value(policy).unwrap(),
            &serde_json::from_value(pod).unwrap(),
        )
    }

    #[test]
    fn an_import_that_nobody_grants_is_named() {
        let imports = ["wasi:cli/stdout@0.2.0", "wasi:sockets/tcp@0.2.0"].map(str::to_owned);
        assert_eq!(Grants::All.check(&imports), Ok(()));
        let strict = granted(&json!({"imports": ["wasi:cli/*", "wasi:io/poll"]})).unwrap();
        let grants = Grants::Of(vec![strict.clone()]);
        assert_eq!(
            grants.check(&imports).unwrap_err(),
            "import wasi:sockets/tcp@0.2.0 is not granted by WasmPolicy strict"
        );
        assert_eq!(grants.check(&imports[..1]), Ok(()));
        let more = granted(&json!({"imports": ["wasi:sockets/tcp"]})).unwrap();
        assert_eq!(Grants::Of(vec![strict, more]).check(&imports), Ok(()));
    }

    #[test]
    fn policies_choose_pods_by_label() {
        let selector = |selector| granted(&json!({"podSelector": selector})).is_some();
        assert!(selector(json!({})));
        assert!(selector(json!({"matchLabels": {"app": "web"}})));
        assert!(!selector(json!({"matchLabels": {"app": "db"}})));
        let expression = json!([{"key": "app", "operator": "NotIn", "values": ["web"]}]);
        assert!(!selector(json!({"matchExpressions": expression})));
        // What cannot be read grants nothing.
        let broken = granted(&json!({"imports": 1})).unwrap();
        assert!(broken.patterns.is_empty());
    }
}
