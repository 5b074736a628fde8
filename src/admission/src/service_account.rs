//! Every pod runs as a service account of its namespace.
//!
//! The account's token is not mounted by this plugin: what mounts it is the node, which has no projected volumes yet.

use async_trait::async_trait;
use serde_json::Value;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request};

/// Whose account a pod runs as that names none.
const DEFAULT: &str = "default";
/// Marks pods that come from the node's own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(crate) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates_pod() || is_ephemeral_update(request)
    }

    async fn mutate(&self, request: &mut Request<'_>, cluster: &dyn Cluster) -> Result<(), Status> {
        if !request.creates_pod() {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref_mut() else {
            return Ok(());
        };
        if is_mirror(pod) {
            return Ok(());
        }
        let spec = meta::object_mut(pod, "spec");
        let name = match spec.get("serviceAccountName").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => DEFAULT.to_owned(),
        };
        for field in ["serviceAccountName", "serviceAccount"] {
            spec.insert(field.to_owned(), name.clone().into());
        }
        let account = cluster.get("", "serviceaccounts", request.namespace, &name);
        let Some(account) = account else {
            let namespace = request.namespace;
            return Err(request.forbidden(format_args!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            )));
        };
        give_pull_secrets(request.object.as_deref_mut(), &account);
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        if !request.creates_pod() {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else {
            return Ok(());
        };
        let name = meta::at(pod, &["spec", "serviceAccountName"])
            .and_then(Value::as_str)
            .unwrap_or_default();
        if is_mirror(pod) {
            if !name.is_empty() {
                return Err(request.forbidden("a mirror pod may not reference service accounts"));
            }
            return Ok(());
        }
        let account = cluster.get("", "serviceaccounts", request.namespace, name);
        match account {
            Some(account) if limits_secrets(&account) => only_its_secrets(request, pod, &account),
            _ => Ok(()),
        }
    }
}

fn is_ephemeral_update(request: &Request<'_>) -> bool {
    request.operation == Operation::Update
        && request.subresource == "ephemeralcontainers"
        && request.resource.plural == "pods"
}

fn is_mirror(pod: &Object) -> bool {
    meta::at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// A pod that names no secrets for pulling its images takes its account's.
fn give_pull_secrets(pod: Option<&mut Object>, account: &Object) {
    let Some(pod) = pod else { return };
    let spec = meta::object_mut(pod, "spec");
    let has_own = spec
        .get("imagePullSecrets")
        .and_then(Value::as_array)
        .is_some_and(|secrets| !secrets.is_empty());
    if has_own {
        return;
    }
    if let Some(Value::Array(secrets)) = account.get("imagePullSecrets")
        && !secrets.is_empty()
    {
        spec.insert("imagePullSecrets".to_owned(), secrets.clone().into());
    }
}

/// Whether pods of this account may use only the secrets that it lists.
fn limits_secrets(account: &Object) -> bool {
    const ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";
    meta::at(account, &["metadata", "annotations", ANNOTATION]).is_some_and(|set| set == "true")
}

fn only_its_secrets(request: &Request<'_>, pod: &Object, account: &Object) -> Result<(), Status> {
    let listed = |field: &str| -> Vec<&str> {
        let items = account.get(field).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item["name"].as_str())
            .collect()
    };
    let (mountable, pullable) = (listed("secrets"), listed("imagePullSecrets"));
    let spec = &pod.get("spec").cloned().unwrap_or_default();
    let account = meta::name(account);
    for volume in array(&spec["volumes"]) {
        if let Some(secret) = volume["secret"]["secretName"].as_str()
            && !mountable.contains(&secret)
        {
            let name = volume["name"].as_str().unwrap_or_default();
            return Err(request.forbidden(format_args!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {account} does not reference that secret ({name})"
            )));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in array(&spec[list]) {
            for variable in array(&container["env"]) {
                if let Some(secret) = variable["valueFrom"]["secretKeyRef"]["name"].as_str()
                    && !mountable.contains(&secret)
                {
                    let (container, variable) = (&container["name"], &variable["name"]);
                    return Err(request.forbidden(format_args!(
                        "container {} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {account} does not reference that secret",
                        container.as_str().unwrap_or_default(),
                        variable.as_str().unwrap_or_default(),
                    )));
                }
            }
        }
    }
    for (index, reference) in array(&spec["imagePullSecrets"]).iter().enumerate() {
        let secret = reference["name"].as_str().unwrap_or_default();
        if !pullable.contains(&secret) {
            return Err(request.forbidden(format_args!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {account} does not reference that imagePullSecret"
            )));
        }
    }
    Ok(())
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, World};

    fn world() -> World {
        World::default()
            .with("", "serviceaccounts", json!({
                "metadata": {"name": "default", "namespace": "ns"}, "imagePullSecrets": [{"name": "registry"}],
            }))
            .with("", "serviceaccounts", json!({
                "metadata": {"name": "strict", "namespace": "ns",
                    "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
                "secrets": [{"name": "known"}],
            }))
    }

    #[tokio::test]
    async fn a_pod_runs_as_default() {
        let mut pod = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {}}));
        pod.mutate(&ServiceAccount, &world()).await.unwrap();
        assert_eq!(
            pod.object()["spec"],
            json!({
                "serviceAccountName": "default", "serviceAccount": "default",
                "imagePullSecrets": [{"name": "registry"}],
            })
        );
    }

    #[tokio::test]
    async fn the_account_must_be_there() {
        let mut pod =
            Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {"serviceAccountName": "x"}}));
        let refused = pod.mutate(&ServiceAccount, &world()).await.unwrap_err();
        assert_eq!(
            refused.message(),
            "pods \"web\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" not found"
        );
    }

    #[tokio::test]
    async fn an_account_may_name_the_secrets() {
        let with = |secret: &str| {
            Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {
                "serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": secret}}],
            }}))
        };
        assert!(
            with("known")
                .validate(&ServiceAccount, &world())
                .await
                .is_ok()
        );
        assert!(
            with("other")
                .validate(&ServiceAccount, &world())
                .await
                .is_err()
        );
    }
}
