//! Every pod runs as a service account of its namespace, whose token its containers find where clients look for it.

use async_trait::async_trait;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request};

/// Whose account a pod runs as that names none.
const DEFAULT: &str = "default";
/// Where clients in containers look for their token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the name of the volume with the token begins with.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// How long a token lasts, in seconds. Upstream's number: it can be told from one that somebody chose.
const TOKEN_LIFE: u32 = 3607;
/// Letters of generated names: no vowels, so that no words come out.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
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
        if let Some(pod) = request.object.as_deref_mut() {
            if mounts_token(pod, &account) {
                mount_token(pod);
            }
            give_pull_secrets(pod, &account);
        }
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

/// Whether the containers are to find their account's token. The pod says it, or else the account.
fn mounts_token(pod: &Object, account: &Object) -> bool {
    let of_pod = meta::at(pod, &["spec", "automountServiceAccountToken"]);
    let of_account = account.get("automountServiceAccountToken");
    let said = of_pod.and_then(Value::as_bool);
    said.or(of_account.and_then(Value::as_bool)).unwrap_or(true)
}

/// Mounts the token into every container that has nothing else at its place.
fn mount_token(pod: &mut Object) {
    let spec = meta::object_mut(pod, "spec");
    let names = spec.get("volumes").and_then(Value::as_array);
    let mut names = names
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str());
    let known = names
        .find(|name| name.starts_with(TOKEN_VOLUME))
        .map(str::to_owned);
    let is_new = known.is_none();
    let name = known.unwrap_or_else(volume_name);
    let mut is_mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            if mounts.iter().all(|mount| mount["mountPath"] != TOKEN_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
                is_mounted = true;
            }
        }
    }
    if is_new && is_mounted {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if volumes.is_null() {
            *volumes = json!([]);
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&name));
        }
    }
}

fn volume_name() -> String {
    let mut random = rand::rng();
    let letters = (0..5).filter_map(|_| LETTERS.choose(&mut random).copied().map(char::from));
    format!("{TOKEN_VOLUME}{}", letters.collect::<String>())
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFE, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

/// A pod that names no secrets for pulling its images takes its account's.
fn give_pull_secrets(pod: &mut Object, account: &Object) {
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
    async fn containers_find_the_token_unless_it_is_not_wanted() {
        let mut pod = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
                           {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_PATH}]}],
            "volumes": [{"name": "x", "emptyDir": {}}],
        }}));
        pod.mutate(&ServiceAccount, &world()).await.unwrap();
        let spec = pod.object()["spec"].clone();
        let volume = &spec["volumes"][1];
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with(TOKEN_VOLUME) && name.len() == TOKEN_VOLUME.len() + 5);
        assert_eq!(
            volume["projected"]["sources"][0]["serviceAccountToken"]["path"],
            "token"
        );
        let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
        assert_eq!(spec["initContainers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(spec["containers"][0]["volumeMounts"][1], mount);
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );

        let mut again = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": spec.clone()}));
        again.mutate(&ServiceAccount, &world()).await.unwrap();
        assert_eq!(again.object()["spec"]["volumes"], spec["volumes"]);

        let mut without = Fixture::pod(json!({"metadata": {"name": "web"}, "spec": {
            "automountServiceAccountToken": false, "containers": [{"name": "a"}],
        }}));
        without.mutate(&ServiceAccount, &world()).await.unwrap();
        assert_eq!(
            without.object()["spec"]["containers"],
            json!([{"name": "a"}])
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
