//! What depends on where and how this server runs: the Service `kubernetes`, and the authority for extension servers.

use std::sync::Arc;

use serde_json::{Value, json};
use vaquita_api::Object;

use super::{super::Server, BootstrapError, post, put};
use vaquita_cache::resource_prefix;

/// Makes the Service by which pods find the API, and its endpoints if they can reach it.
pub(super) async fn publish_service(server: &Arc<Server>) -> Result<(), BootstrapError> {
    let services = "/api/v1/namespaces/default/services";
    if server
        .core_object("services", "default", "kubernetes")
        .is_none()
    {
        post(server, services, &service(server)).await?;
    }
    let Some(address) = server
        .config
        .advertise_address
        .filter(|address| !address.is_loopback())
    else {
        return Ok(());
    };
    let port = server.config.secure_port;
    let endpoints = json!({
        "kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    let core = ("", "/api/v1", "endpoints");
    let discovery = (
        "discovery.k8s.io",
        "/apis/discovery.k8s.io/v1",
        "endpointslices",
    );
    replace(server, core, "default", &object(endpoints), &["subsets"]).await?;
    let fields = ["addressType", "endpoints", "ports"];
    replace(server, discovery, "default", &object(slice), &fields).await
}

/// Tells extension servers which authority the certificates of their callers come from.
pub(super) async fn publish_authority(server: &Arc<Server>) -> Result<(), BootstrapError> {
    let Some(authority) = &server.config.authority else {
        return Ok(());
    };
    let map = json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": authority},
    });
    let maps = ("", "/api/v1", "configmaps");
    replace(server, maps, "kube-system", &object(map), &["data"]).await
}

/// Creates an object, or makes these `fields` of the one that is there the same.
async fn replace(
    server: &Arc<Server>,
    (group, base, resource): (&str, &str, &str),
    namespace: &str,
    wanted: &Object,
    fields: &[&str],
) -> Result<(), BootstrapError> {
    let collection = format!("{base}/namespaces/{namespace}/{resource}");
    let present = server
        .cache
        .collection(&resource_prefix(group, resource))
        .and_then(|known| {
            let name = vaquita_api::meta::name(wanted);
            known.get(&known.key(Some(namespace), name))
        })
        .and_then(|entry| entry.value().ok());
    let Some(present) = present else {
        return post(server, &collection, wanted).await;
    };
    let mut better = present.clone();
    for field in fields {
        if let Some(value) = wanted.get(*field)
            && !present
                .get(*field)
                .is_some_and(|there| includes(there, value))
        {
            better.insert((*field).to_owned(), value.clone());
        }
    }
    if better == present {
        return Ok(());
    }
    put(server, &collection, &better).await
}

/// Whether `there` says all that `wanted` says: defaults may have been added to it.
fn includes(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| there.get(key).is_some_and(|there| includes(there, wanted))),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there
                    .iter()
                    .zip(wanted)
                    .all(|(there, wanted)| includes(there, wanted))
        }
        _ => there == wanted,
    }
}

fn service(server: &Server) -> Object {
    let ip = server.services.first_address();
    object(json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.secure_port}],
        },
    }))
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}
