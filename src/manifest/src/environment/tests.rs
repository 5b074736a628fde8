use async_trait::async_trait;
use k8s_openapi::{ByteString, api::authentication::v1::TokenRequestSpec};
use serde_json::{Value, json};
use vaquita_volumes::Token;

use super::*;

/// Knows one of each.
struct Known;

#[async_trait]
impl Sources for Known {
    async fn config_map(&self, namespace: &str, name: &str) -> kube::Result<Option<ConfigMap>> {
        let data = BTreeMap::from([
            ("colour".to_owned(), "blue".to_owned()),
            ("bad=name".to_owned(), "x".to_owned()),
        ]);
        let map = ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        };
        Ok(Some(map).filter(|_| (namespace, name) == ("ns", "settings")))
    }

    async fn secret(&self, namespace: &str, name: &str) -> kube::Result<Option<Secret>> {
        let data = [("password", &b"s3cret"[..]), ("binary", &b"\xff"[..])];
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec())));
        let secret = Secret {
            data: Some(data.into()),
            ..Secret::default()
        };
        Ok(Some(secret).filter(|_| (namespace, name) == ("ns", "keys")))
    }

    async fn token(&self, _: &str, _: &str, _: TokenRequestSpec) -> kube::Result<Token> {
        unreachable!("variables have no tokens")
    }
}

async fn resolve(container: Value) -> Result<Vec<(String, String)>, ConfigProblem> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}, "annotations": {"a/b": "c"}},
        "spec": {"nodeName": "n", "serviceAccountName": "default", "containers": [container]},
    }))
    .unwrap();
    let capacity = Capacity {
        cpus: 4,
        memory: 1 << 30,
        pods: 10,
    };
    let host_ips = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let place = Place {
        pod_ip: "10.244.0.2".parse().unwrap(),
        host_ips: &host_ips,
        capacity: &capacity,
    };
    let services = vec![("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())];
    let container = &pod.spec.as_ref().unwrap().containers[0];
    environment(&pod, container, place, services, &Known).await
}

async fn one(variable: Value) -> Result<String, String> {
    let variables = resolve(json!({"name": "c", "env": [variable]}))
        .await
        .map_err(|error| error.to_string())?;
    Ok(variables
        .into_iter()
        .find(|(name, _)| name == "V")
        .map(|(_, value)| value)
        .unwrap_or_default())
}

#[test]
fn references_are_expanded_as_upstream_does() {
    let lookup = |name: &str| match name {
        "A" => Some("1"),
        "B" => Some("$(A)"),
        _ => None,
    };
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(A)"),
        ("$(C) $A $", "$(C) $A $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("€$(A)€", "€1€"),
        ("", ""),
    ] {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

#[tokio::test]
async fn variables_use_those_before_them_and_services_come_last() {
    let variables = resolve(json!({
        "name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"configMapRef": {"name": "x", "optional": true}}],
        "env": [
            {"name": "FIRST", "value": "$(P_colour) $(LATER)"},
            {"name": "API", "value": "https://$(KUBERNETES_SERVICE_HOST)"},
            {"name": "LATER", "value": "2"},
            {"name": "FIRST", "value": "again $(FIRST)"},
        ],
    }))
    .await
    .unwrap();
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        variables,
        [
            ("P_colour", "blue"),
            ("FIRST", "again blue $(LATER)"),
            ("API", "https://10.96.0.1"),
            ("LATER", "2"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ]
    );
}

#[tokio::test]
async fn values_come_from_fields_and_resources() {
    for (path, expected) in [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['a/b']", "c"),
        ("spec.nodeName", "n"),
        ("status.podIP", "10.244.0.2"),
        ("status.hostIPs", "192.0.2.1,192.0.2.2"),
    ] {
        let value = one(json!({"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}})).await;
        assert_eq!(value.as_deref(), Ok(expected), "{path}");
    }
    let refused =
        one(json!({"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}})).await;
    assert!(
        refused
            .unwrap_err()
            .contains("unsupported fieldPath: spec.hostname")
    );

    let resources = json!({"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}});
    for (resource, divisor, expected) in [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "1024"),
        ("requests.memory", "1Ki", "102400"),
        ("requests.cpu", "0", "0"),
    ] {
        let variables = resolve(json!({"name": "c", "resources": resources, "env": [
            {"name": "V", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}},
        ]}))
        .await
        .unwrap();
        assert_eq!(variables[0].1, expected, "{resource} {divisor}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named_unless_it_is_optional() {
    let map = |name, key, optional| json!({"name": "V", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}});
    let secret = |name, key, optional| json!({"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": optional}}});
    assert_eq!(
        one(map("settings", "colour", false)).await.as_deref(),
        Ok("blue")
    );
    assert_eq!(
        one(secret("keys", "password", false)).await.as_deref(),
        Ok("s3cret")
    );
    assert_eq!(one(map("settings", "x", true)).await.as_deref(), Ok(""));
    assert_eq!(one(secret("absent", "x", true)).await.as_deref(), Ok(""));
    for (variable, message) in [
        (map("absent", "x", false), "configmap \"absent\" not found"),
        (
            map("settings", "x", false),
            "couldn't find key x in ConfigMap ns/settings",
        ),
        (secret("absent", "x", false), "secret \"absent\" not found"),
        (
            secret("keys", "x", false),
            "couldn't find key x in Secret ns/keys",
        ),
        (
            secret("keys", "binary", false),
            "environment variable V: the value of Secret keys is not valid UTF-8",
        ),
    ] {
        assert_eq!(one(variable).await.unwrap_err(), message);
    }
}

#[test]
fn arguments_are_the_command_or_the_name_and_then_the_args() {
    let arguments = |container: Value| {
        let container: Container = serde_json::from_value(container).unwrap();
        super::arguments(&container, None, &[("A".to_owned(), "1".to_owned())])
    };
    assert_eq!(arguments(json!({"name": "c"})), ["c"]);
    assert_eq!(
        arguments(json!({"name": "c", "args": ["$(A)", "$(B)"]})),
        ["c", "1", "$(B)"]
    );
    assert_eq!(
        arguments(json!({"name": "c", "command": ["/x", "-v"], "args": ["$$(A)"]})),
        ["/x", "-v", "$(A)"]
    );
}

#[test]
fn an_images_own_words_count_where_the_manifest_says_nothing() {
    let start = StartConfig {
        entrypoint: vec!["/app.wasm".to_owned(), "-v".to_owned()],
        cmd: vec!["serve".to_owned(), "$(A)".to_owned()],
        env: vec!["A=image".to_owned(), "B=image".to_owned()],
        ..StartConfig::default()
    };
    let arguments = |container: serde_json::Value| {
        let container = serde_json::from_value(container).unwrap();
        super::arguments(
            &container,
            Some(&start),
            &[("A".to_owned(), "1".to_owned())],
        )
    };
    assert_eq!(
        arguments(json!({"name": "c"})),
        ["/app.wasm", "-v", "serve", "$(A)"]
    );
    assert_eq!(
        arguments(json!({"name": "c", "args": ["$(A)"]})),
        ["/app.wasm", "-v", "1"]
    );
    assert_eq!(arguments(json!({"name": "c", "command": ["/x"]})), ["/x"]);
    assert_eq!(
        arguments(json!({"name": "c", "command": ["/x"], "args": ["y"]})),
        ["/x", "y"]
    );
    let mut variables = vec![("A".to_owned(), "pod".to_owned())];
    super::add_image_variables(Some(&start), &mut variables);
    assert_eq!(variables[0].1, "pod");
    assert_eq!(variables[1], ("B".to_owned(), "image".to_owned()));
}
