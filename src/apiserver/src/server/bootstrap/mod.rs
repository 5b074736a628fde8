//! What a cluster has from its first moment: the objects in `policies/`, the Service by which pods find the API, and what
//! extension servers need to verify callers.
//!
//! [`bootstrap`] makes it as the server starts, [`keep`] makes again what must never be gone for long. Roles and bindings
//! are brought up to date at start, as [`rbac`] says; other objects are made if they are missing and then left alone.

mod cluster;
mod flows;
mod manifests;
mod rbac;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Body;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request, StatusCode};
use serde_json::Value;
use vaquita_api::Object;

use self::manifests::Manifest;
use super::{Server, dispatch::dispatch};
use crate::authn::User;

/// How many objects are made at the same time: they share the store's commits.
const AT_ONCE: usize = 64;

/// Something that has to be there could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{path} could not be created: {message}")]
pub struct BootstrapError {
    path: String,
    message: String,
}

/// Reads the policies. Whoever bootstraps does so too, but may then have to wait for it.
pub(crate) fn prepare() {
    // What is wrong with them is reported when they are needed.
    let _ = manifests::all();
}

/// Makes what is missing, by the way that every request takes, and brings roles and bindings up to date.
pub(crate) async fn bootstrap(server: &Arc<Server>) -> Result<(), BootstrapError> {
    keep(server).await?;
    let objects = manifests::all()?.iter().filter(|one| !one.is_namespace());
    let at_once = AT_ONCE.min(server.config.max_writes_in_flight.max(1));
    stream::iter(objects.filter(|one| one.is_served(server)))
        .map(|manifest| bring(server, manifest))
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    cluster::publish_authority(server).await
}

/// Makes what must never be gone for long: the namespaces, and the way by which pods find the API.
pub(crate) async fn keep(server: &Arc<Server>) -> Result<(), BootstrapError> {
    for namespace in manifests::all()?.iter().filter(|one| one.is_namespace()) {
        bring(server, namespace).await?;
    }
    cluster::publish_service(server).await
}

/// Makes one object, or brings it up to date.
async fn bring(server: &Arc<Server>, manifest: &Manifest) -> Result<(), BootstrapError> {
    let collection = manifest.collection();
    let name = manifest.name();
    let Some(present) = manifest.present(server) else {
        post(server, &collection, manifest.object()).await?;
        return match manifest.resource() {
            "flowschemas" => {
                let path = format!("{collection}/{name}/status");
                let connected = flows::connected(manifest.object());
                send(server, Method::PUT, &path, Some(&connected)).await
            }
            _ => Ok(()),
        };
    };
    let better = match manifest.resource() {
        "clusterroles" | "roles" => rbac::role(manifest.object(), &present),
        "clusterrolebindings" | "rolebindings" => {
            if rbac::is_of_another_role(manifest.object(), &present) {
                // The role of a binding cannot be changed.
                send(
                    server,
                    Method::DELETE,
                    &format!("{collection}/{name}"),
                    None,
                )
                .await?;
                return post(server, &collection, manifest.object()).await;
            }
            rbac::binding(manifest.object(), &present)
        }
        _ => None,
    };
    match better {
        Some(better) => put(server, &collection, &better).await,
        None => Ok(()),
    }
}

/// Creates an object. Somebody else may be faster: then it is there.
async fn post(
    server: &Arc<Server>,
    collection: &str,
    object: &Object,
) -> Result<(), BootstrapError> {
    send(server, Method::POST, collection, Some(object))
        .await
        .map(drop)
}

/// Replaces an object.
async fn put(
    server: &Arc<Server>,
    collection: &str,
    object: &Object,
) -> Result<(), BootstrapError> {
    let name = vaquita_api::meta::name(object);
    let path = format!("{collection}/{name}");
    send(server, Method::PUT, &path, Some(object))
        .await
        .map(drop)
}

/// Sends a request. That something is there already, or was changed by somebody else, is as good as done.
async fn send(
    server: &Arc<Server>,
    method: Method,
    path: &str,
    body: Option<&Object>,
) -> Result<(), BootstrapError> {
    let failed = |message: String| BootstrapError {
        path: path.to_owned(),
        message,
    };
    let body = match body {
        Some(object) => {
            let json = serde_json::to_vec(object).map_err(|error| failed(error.to_string()))?;
            Body::from(json)
        }
        None => Body::empty(),
    };
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
    if code.is_success() || code == StatusCode::CONFLICT {
        return Ok(());
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
