//! Subresources that are connections: `exec`, `attach` and `portforward` of pods, and the `proxy` of three kinds.
//!
//! The first three are checked here and passed on to the pod's node, under the paths that kubelets have. The connection
//! that the request becomes is passed on byte by byte: which protocol runs in it is between client and node.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use vaquita_api::{Object, meta, status::Status};
use vaquita_streams::{
    handshake::{self, STREAM_PROTOCOL},
    relay::{self, Ending},
};

use super::{answer::Answer, call::Call, log, proxy};
use crate::{
    NodeError,
    metrics::OpenGuard,
    request::{RequestInfo, Verb},
};

/// Subresources whose requests may go on for hours, as those of `log` do.
const CONNECTIONS: [&str; 4] = ["attach", "exec", "portforward", "proxy"];
/// A WebSocket client without other means may name its token as a protocol that begins like this. It is not for nodes
/// and pods to see.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// The most that is read of a refusal.
const REFUSAL_BYTES: usize = 64 << 10;

/// Whether a request is for one of these subresources.
pub(crate) fn is_connection(info: &RequestInfo) -> bool {
    let subresource = info.subresource.as_deref().unwrap_or_default();
    info.group.is_empty() && CONNECTIONS.contains(&subresource)
}

/// What a method that the API itself has no use for counts as, for what passes through.
pub(crate) fn verb(method: &Method, info: &RequestInfo) -> Option<Verb> {
    let passes = info.subresource.as_deref() == Some("proxy") && is_connection(info);
    (passes && method == Method::OPTIONS).then_some(Verb::Get)
}

/// Whether a GET is to be allowed only to those who may create: a WebSocket always begins with a GET, but running a
/// command is more than looking.
pub(crate) fn needs_create(method: &Method, headers: &HeaderMap, info: &RequestInfo) -> bool {
    let runs = is_connection(info) && info.subresource.as_deref() != Some("proxy");
    runs && method == Method::GET
        && handshake::upgrade(headers) == Some(handshake::Upgrade::WebSocket)
}

/// Answers a request for the subresource `name`.
pub(crate) async fn connect(call: &mut Call<'_>, name: &str) -> Answer {
    if name == "proxy" {
        return proxy::proxy(call).await;
    }
    let pod = call.entry()?.value().map_err(Status::internal)?;
    let path = match name {
        "portforward" => forward_path(call),
        _ => command_path(call, name, &pod)?,
    };
    let node = node_of(call, &pod)?;
    if handshake::upgrade(&call.parts.headers).is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(path)
        .body(Body::empty())
        .map_err(Status::internal)?;
    *request.headers_mut() = upgrade_headers(&call.parts.headers);
    let place = Place::take(call, name)?;
    let answer = at_node(call, node, request).await?;
    switch(call, answer, place).await
}

/// The node that the pod is on.
pub(crate) fn node_of<'p>(call: &Call<'_>, pod: &'p Object) -> Result<&'p str, Status> {
    let node = meta::at(pod, &["spec", "nodeName"]).and_then(Value::as_str);
    node.filter(|node| !node.is_empty()).ok_or_else(|| {
        Status::bad_request(format!("pod {} does not have a host assigned", call.name()))
    })
}

/// Asks a node.
pub(crate) async fn at_node(
    call: &Call<'_>,
    node: &str,
    request: Request<Body>,
) -> Result<Response, Status> {
    let nodes = call.server.nodes();
    let nodes = nodes.ok_or_else(|| Status::unavailable("no node can be reached yet"))?;
    nodes
        .call(node, request)
        .await
        .map_err(|error| match error {
            NodeError::Unknown => Status::not_found("", "nodes", node),
            NodeError::Unreachable(_) => {
                Status::internal(format!("error dialing backend: {error}"))
            }
        })
}

fn command_path(call: &Call<'_>, name: &str, pod: &Object) -> Result<String, Status> {
    let container = log::container(call, pod)?;
    let mut query = Vec::new();
    for (ours, nodes) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if flag(call, ours) {
            query.push(format!("{nodes}=1"));
        }
    }
    if name == "exec" {
        let commands = call.query.all("command").map(encode);
        query.extend(commands.map(|command| format!("command={command}")));
    }
    let (namespace, pod) = (call.namespace(), call.name());
    Ok(format!(
        "/{name}/{namespace}/{pod}/{container}?{}",
        query.join("&")
    ))
}

fn forward_path(call: &Call<'_>) -> String {
    let ports = call.query.all("ports").map(encode);
    let query: Vec<String> = ports.map(|port| format!("port={port}")).collect();
    let (namespace, pod) = (call.namespace(), call.name());
    format!("/portForward/{namespace}/{pod}?{}", query.join("&"))
}

fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// An option of a connection: there, and not said to be false.
fn flag(call: &Call<'_>, name: &str) -> bool {
    let value = call.query.get(name);
    value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

/// What a node has to know of the client's headers.
fn upgrade_headers(client: &HeaderMap) -> HeaderMap {
    let wanted = |name: &HeaderName| {
        matches!(
            *name,
            header::CONNECTION | header::UPGRADE | header::USER_AGENT
        ) || *name == STREAM_PROTOCOL
            || name.as_str().starts_with("sec-websocket-")
    };
    let mut headers = HeaderMap::new();
    for (name, value) in client.iter().filter(|(name, _)| wanted(name)) {
        headers.append(name, value.clone());
    }
    without_tokens(&mut headers);
    headers
}

/// Takes tokens out of the names of protocols.
pub(crate) fn without_tokens(headers: &mut HeaderMap) {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let named = headers.get_all(&name).iter();
    let protocols: Vec<String> = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    if !protocols.iter().any(|one| one.starts_with(TOKEN_PROTOCOL)) {
        return;
    }
    headers.remove(&name);
    let kept: Vec<String> = protocols
        .into_iter()
        .filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL))
        .collect();
    if let Ok(value) = HeaderValue::from_str(&kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(name, value);
    }
}

/// A place among the connections that may be open at a time, given back when it is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: OpenGuard,
}

impl Place {
    /// Takes a place for the subresource `name`.
    pub(crate) fn take(call: &Call<'_>, name: &str) -> Result<Self, Status> {
        let metrics = &call.server.metrics.streams;
        let permit = call.server.streams.clone().try_acquire_owned();
        let Ok(permit) = permit else {
            metrics.rejected();
            let message = "too many open streams, please try again later";
            return Err(Status::too_many_requests(message, 1));
        };
        let label = format!("{}/{name}", call.resource.plural);
        Ok(Self {
            _permit: permit,
            _counted: metrics.begin(label.into()),
        })
    }
}

/// Passes the answer to a request for an upgrade on, and if it is one, the connection.
pub(crate) async fn switch(call: &Call<'_>, mut answer: Response, place: Place) -> Answer {
    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return refused(answer).await;
    }
    let Some(client) = call.parts.extensions.get::<OnUpgrade>().cloned() else {
        let message = "request connection cannot be hijacked: it is not one of HTTP/1.1";
        return Err(Status::internal(message));
    };
    let backend = hyper::upgrade::on(&mut answer);
    let idle = call.server.config.stream_idle;
    let metrics = call.server.metrics.streams.clone();
    let (stopped, listener) = (call.server.closing.clone(), call.closing.clone());
    let closing = async move {
        match listener {
            Some(listener) => tokio::select! {
                () = stopped.cancelled() => {}
                () = listener.cancelled() => {}
            },
            None => stopped.cancelled().await,
        }
    };
    tokio::spawn(async move {
        let _place = place;
        let relaying = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            let ending = relay::relay(TokioIo::new(client), TokioIo::new(backend), idle).await;
            hyper::Result::Ok(ending)
        };
        tokio::select! {
            ended = relaying => match ended {
                Ok(Ending::HungUp) => {}
                Ok(Ending::Idle) => metrics.idle(),
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            },
            () = closing => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

/// The node's own words go to the client: they are made for it.
async fn refused(answer: Response) -> Answer {
    let status = answer.status();
    if status.as_u16() < 400 {
        let message = format!("invalid upgrade response: status code {}", status.as_u16());
        return Err(Status::internal(message));
    }
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, REFUSAL_BYTES).await;
    let mut response = Response::new(Body::from(body.unwrap_or_default()));
    *response.status_mut() = status;
    for name in [
        header::CONTENT_TYPE,
        HeaderName::from_static("x-accepted-stream-protocol-versions"),
    ] {
        for value in parts.headers.get_all(&name) {
            response.headers_mut().append(&name, value.clone());
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_here() {
        let mut headers = HeaderMap::new();
        let token = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
        let value = format!("{token}, v5.channel.k8s.io,v4.channel.k8s.io");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
        headers.insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        let passed = upgrade_headers(&headers);
        assert_eq!(passed.len(), 2);
        assert_eq!(
            passed[header::SEC_WEBSOCKET_PROTOCOL],
            "v5.channel.k8s.io, v4.channel.k8s.io"
        );
    }

    #[test]
    fn to_run_something_is_to_create() {
        let info = |path| RequestInfo::parse(path).unwrap();
        let exec = info("/api/v1/namespaces/a/pods/p/exec");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        assert!(needs_create(&Method::GET, &headers, &exec));
        assert!(!needs_create(&Method::POST, &headers, &exec));
        assert!(!needs_create(&Method::GET, &HeaderMap::new(), &exec));
        let proxy = info("/api/v1/namespaces/a/pods/p/proxy");
        assert!(!needs_create(&Method::GET, &headers, &proxy));
        assert_eq!(verb(&Method::OPTIONS, &proxy), Some(Verb::Get));
        assert_eq!(verb(&Method::OPTIONS, &exec), None);
    }
}
