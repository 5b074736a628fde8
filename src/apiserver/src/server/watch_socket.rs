//! A watch over WebSocket, for browsers and whoever else cannot read an endless answer: each event is a message.

use axum::{body::Body, response::Response};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use vaquita_api::status::Status;
use vaquita_streams::handshake::{Upgrade, upgrade};

use super::{
    answer::Answer,
    call::Call,
    watch::{Next, Watcher},
};

/// The longest message that a client may send. Whatever it says means nothing here.
const INBOUND: usize = 64 << 10;
/// By this, a browser sends a token along, since it can't set headers.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether the client wants a WebSocket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    upgrade(headers) == Some(Upgrade::WebSocket)
}

/// Switches to WebSocket and sends what `watcher` finds.
pub(super) fn switch(call: &Call<'_>, watcher: Watcher) -> Answer {
    let headers = &call.parts.headers;
    let bad = || Status::bad_request("the WebSocket handshake is not one");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(bad)?;
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(bad());
    }
    let connection = call.parts.extensions.get::<OnUpgrade>();
    let connection = connection.cloned().ok_or_else(bad)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad())?;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol(headers) {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    tokio::spawn(async move {
        if let Ok(connection) = connection.await {
            run(TokioIo::new(connection), watcher).await;
        }
    });
    Ok(response)
}

/// The protocol that is spoken: the first that the client offers. None of them makes a difference.
fn protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offers
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .find(|protocol| !protocol.is_empty() && !protocol.starts_with(BEARER))?;
    HeaderValue::from_str(offered).ok()
}

async fn run<C>(connection: C, mut watcher: Watcher)
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(INBOUND))
        .max_frame_size(Some(INBOUND));
    let mut socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    loop {
        let ended = watcher.ended();
        let next = tokio::select! {
            // Pings are answered on the way; a closed or broken connection ends the watch.
            message = socket.next() => match message {
                Some(Ok(message)) if !message.is_close() => continue,
                _ => return,
            },
            next = watcher.next() => next,
        };
        let (chunk, last) = match next {
            Next::Chunk(chunk) => (chunk, false),
            Next::Last(chunk) => (chunk, true),
            Next::End => break,
        };
        let sent = async {
            for line in chunk.split(|byte| *byte == b'\n') {
                if let Ok(line) = std::str::from_utf8(line)
                    && !line.is_empty()
                {
                    socket.feed(Message::text(line)).await?;
                }
            }
            socket.flush().await
        };
        // Who does not read holds nobody else up, and not the end of the server either.
        tokio::select! {
            sent = sent => if sent.is_err() { return },
            () = ended => return,
        }
        if last {
            break;
        }
    }
    let _ = socket.close(None).await;
}
