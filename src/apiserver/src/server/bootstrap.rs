//! What a cluster has from its first moment: the objects in `policies/`, and the Service by which pods find the API.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Server, dispatch::dispatch};
use crate::authn::User;

/// The manifests, and the collections that their objects belong to.
const MANIFESTS: [(&str, &str); 1] = [(
    "/api/v1/namespaces",
    include_str!("../../../../policies/namespaces.yaml"),
)];

/// Something that has to be there could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{path} could not be created: {message}")]
pub struct BootstrapError {
    path: String,
    message: String,
}

/// Makes what is missing, by the way that every request takes.
pub(crate) async fn bootstrap(server: &Arc<Server>) -> Result<(), BootstrapError> {
    for (collection, manifest) in MANIFESTS {
        for object in documents(collection, manifest)? {
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            create(server, collection, &name, object).await?;
        }
    }
    let base = "/api/v1/namespaces/default";
    create(
        server,
        &format!("{base}/services"),
        "kubernetes",
        service(server),
    )
    .await?;
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
    replace(server, &format!("{base}/endpoints"), endpoints).await?;
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    replace(
        server,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await
}

/// The objects in a manifest.
fn documents(collection: &str, manifest: &str) -> Result<Vec<Value>, BootstrapError> {
    serde_yaml::Deserializer::from_str(manifest)
        .map(Value::deserialize)
        .collect::<Result<_, _>>()
        .map_err(|error| BootstrapError {
            path: collection.to_owned(),
            message: error.to_string(),
        })
}

fn service(server: &Server) -> Value {
    let ip = server.services.first_address();
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.secure_port}],
        },
    })
}

/// Creates an object unless one of its name is there.
async fn create(
    server: &Arc<Server>,
    collection: &str,
    name: &str,
    object: Value,
) -> Result<(), BootstrapError> {
    let found = request(server, Method::GET, &format!("{collection}/{name}"), None).await;
    if found.as_ref().is_ok_and(|code| *code == StatusCode::OK) {
        return Ok(());
    }
    request(server, Method::POST, collection, Some(object))
        .await
        .map(drop)
}

/// Creates an object, or makes the one that is there the same: the API may have moved since the last start.
async fn replace(
    server: &Arc<Server>,
    collection: &str,
    object: Value,
) -> Result<(), BootstrapError> {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    create(server, collection, &name, object.clone()).await?;
    request(
        server,
        Method::PUT,
        &format!("{collection}/{name}"),
        Some(object),
    )
    .await
    .map(drop)
}

async fn request(
    server: &Arc<Server>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<StatusCode, BootstrapError> {
    let failed = |message: String| BootstrapError {
        path: path.to_owned(),
        message,
    };
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .map_err(|error| failed(error.to_string()))?;
    request
        .extensions_mut()
        .insert(User::in_process("system:apiserver"));
    let response = dispatch(server.clone(), request).await;
    let code = response.status();
    if code.is_success() {
        return Ok(code);
    }
    let body = axum::body::to_bytes(response.into_body(), 1 << 16)
        .await
        .unwrap_or_default();
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(failed(
        status["message"]
            .as_str()
            .unwrap_or(code.as_str())
            .to_owned(),
    ))
}
