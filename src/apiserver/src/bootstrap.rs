//! What every cluster has from its first start on: the objects in `policies/`, made by the ordinary way.

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use serde::Deserialize as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{StartError, User};

/// The manifests, in the order in which they are made, and where their objects live.
const MANIFESTS: [(&str, &str); 1] = [("/api/v1/namespaces", include_str!("../../../policies/namespaces.yaml"))];
/// More than any answer to a creation.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// Makes what is missing; what is there stays as it is.
pub(crate) async fn run(router: &Router) -> Result<(), StartError> {
    for (path, manifest) in MANIFESTS {
        for document in serde_yaml::Deserializer::from_str(manifest) {
            let failed = |object: &str, message: String| StartError::Bootstrap { object: object.to_owned(), message };
            let object = Value::deserialize(document).map_err(|error| failed(path, error.to_string()))?;
            let name = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
            create(router, path, &object).await.map_err(|message| failed(&name, message))?;
        }
    }
    Ok(())
}

async fn create(router: &Router, path: &str, object: &Value) -> Result<(), String> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(User::in_process("system:apiserver"))
        .body(Body::from(object.to_string()))
        .map_err(|error| error.to_string())?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.status().is_success() || response.status() == StatusCode::CONFLICT {
        return Ok(());
    }
    let body = axum::body::to_bytes(response.into_body(), ANSWER_LIMIT).await.unwrap_or_default();
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(status["message"].as_str().unwrap_or("no reason given").to_owned())
}
