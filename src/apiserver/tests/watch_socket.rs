//! Watches over WebSocket.

use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use serde_json::Value;
use tokio::{net::TcpListener, net::TcpStream, sync::oneshot};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};
use vaquita_apiserver::{ApiServer, Config};

struct Served {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

async fn start() -> Served {
    let store = Arc::new(vaquita_store::memory());
    let api = ApiServer::start(store, Config::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        api.serve_plain(listener, stopped).await.unwrap();
    });
    Served {
        address,
        stop,
        ended,
    }
}

impl Served {
    async fn watch(
        &self,
        query: &str,
        protocol: Option<&str>,
    ) -> Result<(WebSocketStream<TcpStream>, Option<String>), Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let url = format!("ws://{}/api/v1/namespaces?watch=1{query}", self.address);
        let mut request: Request<()> = url.into_client_request()?;
        if let Some(protocol) = protocol {
            let headers = request.headers_mut();
            headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
        let chosen = response.headers().get("sec-websocket-protocol");
        Ok((
            socket,
            chosen.map(|value| value.to_str().unwrap().to_owned()),
        ))
    }
}

async fn event(socket: &mut WebSocketStream<TcpStream>) -> Option<Value> {
    match socket.next().await? {
        Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
        _ => None,
    }
}

#[tokio::test]
async fn each_event_is_a_message() {
    let served = start().await;
    let (mut socket, protocol) = served.watch("", None).await.unwrap();
    assert_eq!(protocol, None);
    let mut names = Vec::new();
    for _ in 0..4 {
        let event = event(&mut socket).await.unwrap();
        assert_eq!(event["type"], "ADDED");
        names.push(
            event["object"]["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    // What a client sends is read and means nothing.
    socket.send(Message::text("hello")).await.unwrap();
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_browsers_protocol_is_taken_as_it_is() {
    let served = start().await;
    let offered = "base64url.bearer.authorization.k8s.io.eHh4, base64.binary.k8s.io";
    let (mut socket, protocol) = served.watch("", Some(offered)).await.unwrap();
    assert_eq!(protocol.as_deref(), Some("base64.binary.k8s.io"));
    assert!(event(&mut socket).await.is_some());
}

#[tokio::test]
async fn mistakes_are_answered_before_the_upgrade() {
    let served = start().await;
    match served.watch("&resourceVersion=x", None).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 400),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    let served = start().await;
    let (mut socket, _) = served.watch("", None).await.unwrap();
    assert!(event(&mut socket).await.is_some());
    served.stop.send(()).unwrap();
    while event(&mut socket).await.is_some() {}
    served.ended.await.unwrap();
}
