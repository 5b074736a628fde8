//! `pods/binding`: a pod is put on a node.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Binding;
use serde_json::json;
use vaquita_api::{body, status::Status};
use vaquita_kinds::pod;

use super::{
    answer::{self, Answer},
    call::Call,
    update::{modify, modify_at},
};
use crate::query::Writing;

/// Puts a pod on a node, once.
pub(crate) async fn bind(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Create)?;
    let binding = binding(call).await?;
    let name = binding.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let now = Timestamp::now();
    modify(call, options.dry_run, |object| {
        pod::bind(object, &binding, now).map_err(|error| error.into_status(call.name()))
    })
    .await?;
    Ok(created(call))
}

async fn binding(call: &mut Call<'_>) -> Result<Binding, Status> {
    let parsed = call
        .parse_body_as(|bytes| body::BINDING.parse_protobuf(bytes))
        .await?;
    Ok(body::BINDING.decode(parsed.value)?.0)
}

/// The same by `POST bindings`, where the body alone says which pod is meant.
pub(crate) async fn bind_by_body(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Create)?;
    let binding = binding(call).await?;
    let name = binding.metadata.name.clone().unwrap_or_default();
    let pods = call.server.served("", "v1", "pods");
    let pods = pods.ok_or_else(Status::no_such_path)?;
    let now = Timestamp::now();
    let key = pods.collection.key(call.info.namespace.as_deref(), &name);
    modify_at(call.server, &pods, &key, &name, options.dry_run, |object| {
        pod::bind(object, &binding, now).map_err(|error| error.into_status(&name))
    })
    .await?;
    Ok(created(call))
}

/// 201 with a bare success, as both are answered.
pub(crate) fn created(call: &Call<'_>) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    answer::value(StatusCode::CREATED, &status, call.accepted.encoding)
}
