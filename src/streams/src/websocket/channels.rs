//! Streams over a WebSocket whose messages begin with the number of a channel.
//!
//! Binary messages begin with a byte, those of the `base64` protocols with a digit, and the rest is base64. With `v5`, a
//! message of channel 255 ends the channel that its second byte names; before that there was no way to say so.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

use super::normal_closure;
use crate::{
    Connection, Limits,
    mux::{Outgoing, Shared},
    spdy::LINGER,
};

/// The channel that ends others.
const CLOSE: u8 = 255;

/// How channels are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// Whether messages are text in base64.
    pub(crate) base64: bool,
    /// Whether a channel can end by itself.
    pub(crate) half_close: bool,
}

/// Starts to carry channels over `io`. `make` makes them, with [`Shared::channel`], before anything is read: a peer may
/// write at once, and what comes on a channel that there is not is dropped.
pub(crate) async fn start<IO, T>(
    io: IO,
    form: Form,
    limits: Limits,
    make: impl FnOnce(&Arc<Shared>) -> T + Send,
) -> (Connection, T)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = super::serve(io, &limits).await;
    let shared = Shared::new(0, limits);
    let opened = make(&shared);
    let driven = shared.clone();
    tokio::spawn(async move {
        drive(socket, form, &driven).await;
        driven.lost();
    });
    (Connection(shared), opened)
}

async fn drive<IO>(socket: WebSocketStream<IO>, form: Form, shared: &Shared)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    tokio::select! {
        ended = receive(&mut stream, form, shared) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "WebSocket connection ended");
            }
        }
        sent = send(&mut sink, form, shared) => {
            if sent.is_ok() {
                // The peer answers the end with its own.
                let farewell = async { while let Some(Ok(_)) = stream.next().await {} };
                let _ = tokio::time::timeout(LINGER, farewell).await;
            }
        }
        () = shared.overdue() => tracing::debug!("WebSocket connection took too long to end"),
        () = shared.idle() => tracing::debug!("WebSocket connection was idle for too long"),
    }
}

async fn receive<IO>(
    stream: &mut SplitStream<WebSocketStream<IO>>,
    form: Form,
    shared: &Shared,
) -> Result<(), tungstenite::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = stream.next().await {
        let Some((channel, data)) = decode(message?, form) else {
            shared.touch();
            continue;
        };
        shared.touch();
        if form.half_close && channel == CLOSE {
            if let Some(ended) = data.first() {
                shared.finished(u32::from(*ended));
            }
            continue;
        }
        // What comes on a channel that there is not, or that nobody reads, is dropped.
        let _ = shared.deliver(u32::from(channel), data, false).await;
    }
    Ok(())
}

async fn send<IO>(
    sink: &mut SplitSink<WebSocketStream<IO>, Message>,
    form: Form,
    shared: &Shared,
) -> Result<(), tungstenite::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(outgoing) = shared.next().await {
        let mut next = Some(outgoing);
        // Fed until nothing waits, then flushed: small messages share a write.
        while let Some(outgoing) = next {
            if let Some(message) = encode(&outgoing, form) {
                sink.feed(message).await?;
            }
            next = shared.try_next();
        }
        sink.flush().await?;
        shared.touch();
    }
    sink.send(normal_closure()).await
}

/// The channel and bytes of a message; `None` for one that has none.
fn decode(message: Message, form: Form) -> Option<(u8, Bytes)> {
    let message: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let first = *message.first()?;
    let rest = message.slice(1..);
    if !form.base64 {
        return Some((first, rest));
    }
    let channel = first.checked_sub(b'0').filter(|channel| *channel < 10)?;
    let data = BASE64_STANDARD.decode(&rest).ok()?;
    Some((channel, data.into()))
}

fn encode(outgoing: &Outgoing, form: Form) -> Option<Message> {
    // The end of a channel towards the client is not told: clients do not expect that, they wait for the last message.
    let Outgoing::Data { id, data, fin } = outgoing else {
        return None;
    };
    if *fin && data.is_empty() {
        return None;
    }
    let channel = u8::try_from(*id).ok()?;
    if form.base64 {
        let text = format!("{channel}{}", BASE64_STANDARD.encode(data));
        return Some(Message::text(text));
    }
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    Some(Message::Binary(message.freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back(channel in 0..10_u8, data in proptest::collection::vec(any::<u8>(), 0..99), base64 in any::<bool>()) {
            let form = Form { base64, half_close: true };
            let data = Bytes::from(data);
            let (id, fin) = (u32::from(channel), false);
            let outgoing = Outgoing::Data { id, data: data.clone(), fin };
            prop_assert_eq!(decode(encode(&outgoing, form).unwrap(), form), Some((channel, data)));
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        let base64 = Form {
            base64: true,
            half_close: false,
        };
        for text in ["", "x", "1*", "A1==", "99=9"] {
            assert_eq!(decode(Message::text(text), base64), None, "{text:?}");
        }
        assert_eq!(decode(Message::text("0"), base64), Some((0, Bytes::new())));
        assert_eq!(
            decode(Message::Ping(Bytes::from_static(b"0")), base64),
            None
        );
    }
}
