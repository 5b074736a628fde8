//! `proxy` of pods, services and nodes: any request, passed on to what they serve, and its answer back.
//!
//! [`mod@target`] says where a name leads; [`rewrite`] adapts the heads of request and answer.

mod rewrite;
mod target;
mod tls;

use std::{net::SocketAddr, time::Duration};

use axum::{body::Body, response::Response};
use futures::StreamExt as _;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use vaquita_api::status::Status;
use vaquita_streams::handshake;

use self::{
    rewrite::{Outside, request_headers},
    target::{Scheme, Target, target},
};
use super::{
    answer::Answer,
    call::Call,
    connect::{Place, at_node, switch},
};
use crate::Duplex;

/// How long a connection to a pod, TLS included, may take to come about.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);

/// Passes the request on.
pub(crate) async fn proxy(call: &mut Call<'_>) -> Answer {
    let target = target(call)?;
    let upgrades = handshake::upgrade(&call.parts.headers).is_some();
    let outside = Outside::of(call.parts);
    if !upgrades && let Some(redirect) = with_slash(call, &outside) {
        return Ok(redirect);
    }
    let place = Place::take(call, "proxy")?;
    let request = request(call, &outside, upgrades)?;
    let mut answer = match &target {
        Target::Node(node) => at_node(call, node, request).await?,
        Target::Address(scheme, address, host) => {
            at_address(call, *scheme, *address, host, request).await?
        }
    };
    outside.rewrite_answer(answer.headers_mut(), upgrades);
    if upgrades {
        return switch(call, answer, place).await;
    }
    // The place is taken until the last of the body.
    let (parts, body) = answer.into_parts();
    let body = body.into_data_stream().map(move |data| {
        let _place = &place;
        data
    });
    Ok(Response::from_parts(parts, Body::from_stream(body)))
}

/// Relative links on a page work only if its own address ends with a slash.
fn with_slash(call: &Call<'_>, outside: &Outside) -> Option<Response> {
    let looks = matches!(call.parts.method, Method::GET | Method::HEAD);
    if !looks || !outside.path.is_empty() {
        return None;
    }
    let mut location = format!("{}/", outside.prefix);
    if let Some(query) = call.parts.uri.query() {
        location = format!("{location}?{query}");
    }
    let location = HeaderValue::from_str(&location).ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

fn request(
    call: &mut Call<'_>,
    outside: &Outside,
    upgrades: bool,
) -> Result<Request<Body>, Status> {
    let path = match outside.path.as_str() {
        "" => "/",
        path => path,
    };
    let uri = match call.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(uri)
        .body(if upgrades {
            Body::empty()
        } else {
            call.take_body()
        })
        .map_err(|error| Status::bad_request(error.to_string()))?;
    *request.headers_mut() = request_headers(call.parts, outside, upgrades);
    Ok(request)
}

/// Sends a request over a connection of its own.
async fn at_address(
    call: &Call<'_>,
    scheme: Scheme,
    address: SocketAddr,
    host: &str,
    request: Request<Body>,
) -> Result<Response, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        Status::unavailable(format!("error trying to reach service: {error}"))
    };
    let dialer = call.server.dialer();
    let connect = async {
        let stream = dialer
            .dial(address)
            .await
            .map_err(|error| failed(&format!("dial tcp {address}: connect: {error}")))?;
        match scheme {
            Scheme::Http => Ok(stream),
            Scheme::Https => tls::client(stream, host)
                .await
                .map_err(|error| failed(&error)),
        }
    };
    let stream: Box<dyn Duplex> = tokio::time::timeout(DIAL_DEADLINE, connect)
        .await
        .map_err(|_| failed(&format!("dial tcp {address}: i/o timeout")))??;
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let response = sender.send_request(request).await;
    Ok(response.map_err(|error| failed(&error))?.map(Body::new))
}
