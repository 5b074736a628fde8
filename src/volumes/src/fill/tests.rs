use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use serde_json::{Value, json};

use super::*;
use crate::Token;

/// A cluster with the config map `config` and the secret `secret`. Each token is a new one.
#[derive(Default)]
struct Cluster {
    tokens: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl Sources for Cluster {
    async fn config_map(&self, namespace: &str, name: &str) -> kube::Result<Option<ConfigMap>> {
        assert_eq!(namespace, "ns");
        let map = json!({"data": {"a": "one", "b": "two"}, "binaryData": {"c": "AAE="}});
        Ok((name == "config").then(|| serde_json::from_value(map).unwrap()))
    }

    async fn secret(&self, _namespace: &str, name: &str) -> kube::Result<Option<Secret>> {
        let secret = json!({"data": {"key": "c2VjcmV0"}});
        Ok((name == "secret").then(|| serde_json::from_value(secret).unwrap()))
    }

    async fn token(
        &self,
        namespace: &str,
        account: &str,
        wanted: TokenRequestSpec,
    ) -> kube::Result<Token> {
        let number = self
            .tokens
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let bound = wanted.bound_object_ref.unwrap();
        let (pod, life) = (bound.name.unwrap(), wanted.expiration_seconds.unwrap());
        let expires = Timestamp::now() + SignedDuration::from_secs(life);
        let audiences = wanted.audiences.unwrap();
        Ok(Token {
            text: format!("{number} {namespace}/{account} {pod} {audiences:?}"),
            expires_at: expires,
        })
    }
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
        "spec": {"serviceAccountName": "robot", "containers": [{"name": "c"}]},
    }))
    .unwrap()
}

async fn fill(volume: Value) -> Result<Payload, String> {
    fill_with(volume, &Cluster::default(), &mut Tokens::default()).await
}

async fn fill_with(
    volume: Value,
    cluster: &Cluster,
    tokens: &mut Tokens,
) -> Result<Payload, String> {
    let volume: Volume = serde_json::from_value(volume).unwrap();
    let pod = pod();
    let machine = Machine {
        cpus: 2,
        memory: 1 << 20,
    };
    let mut filler = Filler {
        pod: &pod,
        machine,
        sources: cluster,
        tokens,
    };
    let payload = filler.fill(&volume).await;
    payload
        .map(Option::unwrap)
        .map_err(|error| error.to_string())
}

/// Path, content and mode of each file.
fn files(payload: &Payload) -> Vec<(&str, &str, u32)> {
    let text = |content| std::str::from_utf8(content).unwrap();
    payload
        .files()
        .map(|(path, file)| (path, text(&file.content), file.mode))
        .collect()
}

#[tokio::test]
async fn all_keys_or_those_that_are_wanted() {
    let all = fill(json!({"name": "v", "configMap": {"name": "config"}})).await;
    assert_eq!(
        files(&all.unwrap()),
        [
            ("a", "one", 0o644),
            ("b", "two", 0o644),
            ("c", "\0\u{1}", 0o644)
        ]
    );
    let some = fill(
        json!({"name": "v", "secret": {"secretName": "secret", "defaultMode": 0o400, "items": [
            {"key": "key", "path": "deep/er"}, {"key": "key", "path": "again", "mode": 0o444},
        ]}}),
    )
    .await;
    assert_eq!(
        files(&some.unwrap()),
        [("again", "secret", 0o444), ("deep/er", "secret", 0o400)]
    );
}

#[tokio::test]
async fn what_is_missing_is_named_unless_it_is_optional() {
    for (volume, message) in [
        (
            json!({"configMap": {"name": "x"}}),
            "configmap \"x\" not found",
        ),
        (
            json!({"secret": {"secretName": "x"}}),
            "secret \"x\" not found",
        ),
        (
            json!({"configMap": {"name": "config", "items": [{"key": "x", "path": "x"}]}}),
            "configmap references non-existent config key: x",
        ),
        (
            json!({"secret": {"secretName": "secret", "items": [{"key": "x", "path": "x"}]}}),
            "references non-existent secret key: x",
        ),
        (
            json!({"configMap": {"name": "config", "items": [{"key": "a", "path": "../x"}]}}),
            "invalid path: must not contain '..': ../x",
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "x"}}, {"configMap": {"name": "x"}}]}}),
            "[secret \"x\" not found, configmap \"x\" not found]",
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            "unsupported fieldPath: status.podIP",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        assert_eq!(fill(volume).await.unwrap_err(), message);
    }
    for optional in [
        json!({"name": "v", "configMap": {"name": "x", "optional": true}}),
        json!({"name": "v", "secret": {"secretName": "x", "optional": true}}),
        json!({"name": "v", "configMap": {"name": "config", "optional": true, "items": [{"key": "x", "path": "x"}]}}),
    ] {
        assert_eq!(fill(optional).await.unwrap(), Payload::default());
    }
}

#[tokio::test]
async fn a_projected_volume_puts_everything_together_and_keeps_its_token() {
    let volume = json!({"name": "v", "projected": {"defaultMode": 0o440, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
        {"configMap": {"name": "config", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "mode": 0o400, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
        ]}},
    ]}});
    let (cluster, mut tokens) = (Cluster::default(), Tokens::default());
    let first = fill_with(volume.clone(), &cluster, &mut tokens)
        .await
        .unwrap();
    assert_eq!(
        files(&first),
        [
            ("ca.crt", "one", 0o440),
            ("cpu", "2", 0o400),
            ("labels", "app=\"web\"", 0o440),
            ("namespace", "ns", 0o440),
            ("token", "0 ns/robot p []", 0o440),
            ("vault", "1 ns/robot p [\"vault\"]", 0o440),
        ]
    );
    let again = fill_with(volume, &cluster, &mut tokens).await.unwrap();
    assert_eq!(first, again, "tokens that are good are kept");
    let left = tokens.renew_at().unwrap().duration_since(Timestamp::now());
    assert!((2800..=2880).contains(&left.as_secs()), "{left}");
}
