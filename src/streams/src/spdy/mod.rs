//! SPDY/3.1, as Kubernetes uses it: streams with headers, no requests, no push.
//!
//! [`connect`] and [`accept`] make a [`Connection`] of bytes; [`Decoder`] and [`Encoder`] are the frames, without I/O.
//! The specification is `draft-mbelshe-httpbis-spdy` and its successor SPDY/3.1. What differs here: windows are kept to
//! only towards a peer that has spoken of windows, since the library that nearly all clients are made with never does;
//! a slow reader is then protected by not reading from the connection.

mod block;
mod dictionary;
mod frame;

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub use self::frame::{Decoder, Encoder, Frame, FrameError, INITIAL_WINDOW_SIZE};
use crate::{
    Connection, Limits,
    mux::{CHUNK, Headers, Outgoing, Refusal, Shared},
};

/// How long the peer may take to hang up after the last frame. Its own last words are read, so that the system does not reset the
/// connection and with it what the peer has not read yet.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ended otherwise than by hanging up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer sends without reading the answers")]
    Flood,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves the streams that the peer opens over `io`. Needs a tokio runtime.
pub fn accept<IO>(io: IO, limits: Limits) -> Connection
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    start(io, 2, limits)
}

/// Opens streams over `io`, whose other end serves. Needs a tokio runtime.
pub fn connect<IO>(io: IO, limits: Limits) -> Connection
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    start(io, 1, limits)
}

fn start<IO>(io: IO, first_id: u32, limits: Limits) -> Connection
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let shared = Shared::new(first_id, limits);
    let driven = shared.clone();
    tokio::spawn(async move {
        drive(io, &driven).await;
        driven.lost();
    });
    Connection(shared)
}

async fn drive<IO: AsyncRead + AsyncWrite>(io: IO, shared: &Shared) {
    let (mut read, mut write) = tokio::io::split(io);
    tokio::select! {
        ended = receive(&mut read, shared) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "SPDY connection ended");
            }
        }
        sent = send(&mut write, shared) => {
            if sent.is_ok() {
                let _ = tokio::time::timeout(LINGER, drain(&mut read)).await;
            }
        }
        () = shared.overdue() => tracing::debug!("SPDY connection took too long to end"),
        () = shared.idle() => tracing::debug!("SPDY connection was idle for too long"),
    }
}

/// Reads and forgets, until the peer has hung up.
pub(crate) async fn drain(read: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    tokio::io::copy(read, &mut tokio::io::sink())
        .await
        .map(|_| ())
}

async fn receive(read: &mut (impl AsyncRead + Unpin), shared: &Shared) -> Result<(), Broken> {
    let mut decoder = Decoder::new(shared.limits().headers);
    let mut buffer = BytesMut::with_capacity(2 * CHUNK);
    let mut last_opened = 0;
    loop {
        while let Some(frame) = decoder.decode(&mut buffer)? {
            handle(frame, shared, &mut last_opened).await?;
        }
        if shared.flooded() {
            return Err(Broken::Flood);
        }
        buffer.reserve(CHUNK);
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        shared.touch();
    }
}

async fn handle(frame: Frame, shared: &Shared, last_opened: &mut u32) -> Result<(), Broken> {
    match frame {
        Frame::SynStream {
            id, fin, headers, ..
        } => {
            let ours = shared.is_ours(id);
            if id == 0 || ours || id <= *last_opened {
                shared.refuse(id, Refusal::Protocol);
                return Ok(());
            }
            *last_opened = id;
            if let Err(why) = shared.opened(id, headers, fin) {
                shared.refuse(id, why);
            }
        }
        // What was in flight as we gave the stream up says nothing about the peer.
        Frame::Data { id, fin, data } => match shared.deliver(id, data, fin).await {
            Err(Refusal::Unknown) if id > *last_opened && !shared.is_ours(id) => {
                shared.refuse(id, Refusal::Unknown);
            }
            _ => {}
        },
        Frame::SynReply { id, fin, .. } | Frame::Headers { id, fin, .. } => {
            if fin {
                shared.finished(id);
            }
        }
        Frame::RstStream { id, .. } => shared.reset(id),
        Frame::Ping(id) => {
            if !shared.is_ours(id) && !shared.pong(id) {
                return Err(Broken::Flood);
            }
        }
        Frame::WindowUpdate { id, delta } => {
            if shared.grant(id, delta).is_err() {
                shared.refuse(id, Refusal::Protocol);
                shared.reset(id);
            }
        }
        Frame::Settings(entries) => {
            for (id, value) in entries {
                if id == INITIAL_WINDOW_SIZE {
                    shared.initial_window(value);
                }
            }
        }
        // Streams that exist go on; the peer hangs up when they have ended.
        Frame::GoAway { .. } => {}
    }
    Ok(())
}

async fn send(write: &mut (impl AsyncWrite + Unpin), shared: &Shared) -> io::Result<()> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = shared.next().await {
        let mut next = Some(outgoing);
        while let Some(outgoing) = next {
            encoder.encode(&frame(outgoing), &mut buffer);
            next = (buffer.len() < 4 * CHUNK)
                .then(|| shared.try_next())
                .flatten();
        }
        write.write_all_buf(&mut buffer).await?;
        write.flush().await?;
        shared.touch();
    }
    encoder.encode(&Frame::GoAway { last: 0, code: 0 }, &mut buffer);
    write.write_all_buf(&mut buffer).await?;
    write.shutdown().await
}

fn frame(outgoing: Outgoing) -> Frame {
    match outgoing {
        Outgoing::Open { id, headers } => Frame::SynStream {
            id,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers,
        },
        Outgoing::Reply { id } => Frame::SynReply {
            id,
            fin: false,
            headers: Headers::default(),
        },
        Outgoing::Data { id, data, fin } => Frame::Data { id, fin, data },
        Outgoing::Reset { id, why } => Frame::RstStream {
            id,
            code: match why {
                Refusal::Protocol => 1,
                Refusal::Unknown => 2,
                Refusal::Refused => 3,
                Refusal::Cancel => 5,
            },
        },
        Outgoing::Window { id, delta } => Frame::WindowUpdate { id, delta },
        Outgoing::Pong(id) => Frame::Ping(id),
    }
}

/// Lets arbitrary bytes be a peer's, for fuzzing: whatever they are, this returns, and holds no more than the limits say.
pub fn try_bytes(bytes: &[u8]) {
    let mut decoder = Decoder::new(Limits::default().headers);
    let mut buffer = BytesMut::from(bytes);
    let mut encoder = Encoder::new();
    let mut out = BytesMut::new();
    while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
        out.clear();
        encoder.encode(&frame, &mut out);
    }
}

#[cfg(test)]
mod tests;
