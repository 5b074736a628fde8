//! `pods/log`, with a node that answers with what it was asked.

use axum::response::IntoResponse as _;

use super::*;
use crate::{NodeError, NodeTransport};

/// Says what it was asked for; knows one node.
struct Echo;

#[async_trait::async_trait]
impl NodeTransport for Echo {
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response, NodeError> {
        match node {
            "one" => Ok(request.uri().to_string().into_response()),
            "sulky" => {
                Ok((StatusCode::NOT_FOUND, "container \"c\" has no log yet\n").into_response())
            }
            _ => Err(NodeError::Unknown),
        }
    }
}

async fn log(api: &Api, containers: &[&str], node: &str, query: &str) -> Reply {
    let mut pod = pod("p");
    pod["spec"]["containers"] = containers
        .iter()
        .map(|name| json!({"name": name, "image": "x"}))
        .collect();
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    api.post(PODS, pod).await.ok();
    let reply = api.get(&format!("{PODS}/p/log?{query}")).await;
    api.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    reply
}

#[tokio::test]
async fn the_node_is_asked_for_the_container_with_the_clients_options() {
    let api = Api::start().await;
    let early = log(&api, &["c"], "one", "").await;
    assert_eq!(early.refused().0, 503);
    api.server.set_nodes(Arc::new(Echo));
    let one = log(&api, &["c"], "one", "follow=true&tailLines=5&nonsense=1").await;
    assert_eq!(one.headers["content-type"], "text/plain");
    assert_eq!(
        one.ok(),
        "/containerLogs/default/p/c?follow=true&tailLines=5"
    );
    let second = log(&api, &["c", "d"], "one", "container=d").await.ok();
    assert_eq!(second, "/containerLogs/default/p/d?");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_why() {
    let api = Api::start().await;
    api.server.set_nodes(Arc::new(Echo));
    let which = log(&api, &["c", "d"], "one", "").await;
    let message = "a container name must be specified for pod p, choose one of: [c d]";
    assert_eq!(which.refused(), (400, "BadRequest", message));
    let wrong = log(&api, &["c"], "one", "container=x").await;
    let message = "container x is not valid for pod p";
    assert_eq!(wrong.refused(), (400, "BadRequest", message));
    let idle = log(&api, &["c"], "", "").await;
    let message = "pod p does not have a host assigned";
    assert_eq!(idle.refused(), (400, "BadRequest", message));
    let sulky = log(&api, &["c"], "sulky", "").await;
    let message = "container \"c\" has no log yet";
    assert_eq!(sulky.refused(), (400, "BadRequest", message));
    assert_eq!(log(&api, &["c"], "lost", "").await.refused().0, 404);
    assert_eq!(api.get(&format!("{PODS}/none/log")).await.refused().0, 404);
}
