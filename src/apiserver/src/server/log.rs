//! `pods/log`: asks the pod's node, and passes on what it says.

use axum::{body::Body, response::Response};
use futures::{StreamExt as _, future};
use http::{HeaderValue, Request, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use vaquita_api::{Object, meta, status::Status};

use super::{answer::Answer, call::Call, connect};

/// Options of the query that the node understands under the same name.
const PASSED_ON: [&str; 8] = [
    "follow",
    "tailLines",
    "previous",
    "timestamps",
    "sinceSeconds",
    "sinceTime",
    "limitBytes",
    "stream",
];

/// Streams a container's log.
pub(crate) async fn log(call: &Call<'_>) -> Answer {
    let pod = call.entry()?.value().map_err(Status::internal)?;
    let container = container(call, &pod)?;
    let node = connect::node_of(call, &pod)?;
    let request = Request::get(path(call, &container))
        .body(Body::empty())
        .map_err(Status::internal)?;
    let response = connect::at_node(call, node, request).await?;
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    Ok(text(call, response))
}

/// The container that is meant: the one that is named, or the only one there is.
pub(crate) fn container(call: &Call<'_>, pod: &Object) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = meta::at(pod, &["spec", list]).and_then(Value::as_array);
        let names = containers
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    let annotations = meta::annotations(pod);
    let wanted = call.query.text("container").map(str::to_owned);
    let default = || {
        annotations
            .get("kubectl.kubernetes.io/default-container")
            .cloned()
    };
    match (wanted.or_else(default), main.as_slice()) {
        (Some(name), _)
            if [&main, &init, &ephemeral]
                .iter()
                .any(|names| names.contains(&name)) =>
        {
            Ok(name)
        }
        (Some(name), _) => Err(Status::bad_request(format!(
            "container {name} is not valid for pod {}",
            call.name()
        ))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let (pod, choice) = (call.name(), main.join(" "));
            let init = match init.as_slice() {
                [] => String::new(),
                names => format!(" or one of the init containers: [{}]", names.join(" ")),
            };
            let message = format!(
                "a container name must be specified for pod {pod}, choose one of: [{choice}]{init}"
            );
            Err(Status::bad_request(message))
        }
    }
}

fn path(call: &Call<'_>, container: &str) -> String {
    let options: Vec<String> = PASSED_ON
        .iter()
        .filter_map(|key| call.query.get(key).map(|value| (key, value)))
        .map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    let (namespace, name) = (call.namespace(), call.name());
    format!(
        "/containerLogs/{namespace}/{name}/{container}?{}",
        options.join("&")
    )
}

/// What the node says instead of a log: a line of text, which becomes the message of a `Status`.
async fn refused(response: Response) -> Status {
    const MESSAGE_BYTES: usize = 4096;
    let code = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), MESSAGE_BYTES)
        .await
        .unwrap_or_default();
    let message = String::from_utf8_lossy(&bytes).trim().to_owned();
    match code {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Status::bad_request(message),
        _ => Status::internal(message),
    }
}

fn text(call: &Call<'_>, response: Response) -> Response {
    let closing = [call.closing.clone(), Some(call.server.closing.clone())];
    let ended = future::select_all(
        closing
            .into_iter()
            .flatten()
            .map(|token| Box::pin(async move { token.cancelled().await })),
    );
    let body = Body::from_stream(response.into_body().into_data_stream().take_until(ended));
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
