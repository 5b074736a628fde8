//! WebSocket (RFC 6455), as Kubernetes uses it: [`channels`] number the streams of one connection, a [`tunnel`] carries
//! bytes in messages.

pub(crate) mod channels;
pub(crate) mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::Limits;

/// The server's side of an upgraded connection.
pub(crate) async fn serve<IO>(io: IO, limits: &Limits) -> WebSocketStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .write_buffer_size(32 << 10)
        .max_write_buffer_size(limits.outbound.max(64 << 10) * 2)
        .max_message_size(Some(limits.message))
        .max_frame_size(Some(limits.message));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The end of a connection in good order. Clients take any other code for a failure.
pub(crate) fn normal_closure() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}
