//! Forwarded connections: pairs of a stream for the data and one for an error.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Connection, Headers, Limits, Stream,
    handshake::{Accepted, Carrier},
    mux::Shared,
    spdy,
    websocket::{
        channels::{self, Form},
        tunnel::Tunnel,
    },
};

/// Ports that one WebSocket can carry: two channels each, numbered by a byte.
const MAX_PORTS: usize = 127;

/// A connection that the client wants to a port.
#[derive(Debug)]
pub struct Forward {
    /// The port of the pod.
    pub port: u16,
    /// The connection's bytes, both ways.
    pub data: Stream,
    /// Where to say, in a line of text, why there is no connection. Empty: there was one.
    pub error: Stream,
}

/// The connections that a client wants, over one connection of its own.
#[derive(Debug)]
pub struct ForwardSession {
    connection: Connection,
    limits: Limits,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The client opens pairs of streams as it needs them. Halves wait for their other half, by request.
    Pairs(HashMap<String, Half>),
    /// The request named the ports; each is one connection.
    Fixed(VecDeque<Forward>),
}

#[derive(Debug)]
struct Half {
    port: u16,
    data: Option<Stream>,
    error: Option<Stream>,
    deadline: Instant,
}

impl ForwardSession {
    /// The session over `io`, the connection of which the request was `accepted`. `ports` are those that the request
    /// names; they matter only where the protocol has no other way to say them.
    pub async fn open<IO>(io: IO, accepted: &Accepted, ports: &[u16], limits: Limits) -> Self
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pairs = Kind::Pairs(HashMap::new());
        let (connection, kind) = match accepted.carrier {
            Carrier::Spdy => (spdy::accept(io, limits.clone()), pairs),
            Carrier::Tunnel => {
                let tunnel = Tunnel::serve(io, &limits).await;
                (spdy::accept(tunnel, limits.clone()), pairs)
            }
            Carrier::Channels(form) => {
                let (connection, forwards) = fixed(io, form, ports, limits.clone()).await;
                (connection, Kind::Fixed(forwards))
            }
        };
        Self {
            connection,
            limits,
            kind,
        }
    }

    /// The next connection that the client wants; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Forward> {
        let halves = match &mut self.kind {
            Kind::Fixed(forwards) => return forwards.pop_front(),
            Kind::Pairs(halves) => halves,
        };
        loop {
            let oldest = halves.values().map(|half| half.deadline).min();
            let accepted = match oldest {
                None => self.connection.accept().await,
                Some(deadline) => {
                    let accept = self.connection.accept();
                    let Ok(accepted) = tokio::time::timeout_at(deadline, accept).await else {
                        halves.retain(|_, half| half.deadline > deadline);
                        continue;
                    };
                    accepted
                }
            };
            let (stream, headers) = accepted?;
            let deadline = Instant::now() + self.limits.creation;
            if let Some(forward) = pair(halves, stream, &headers, deadline) {
                return Some(forward);
            }
        }
    }
}

/// Puts a new stream to its other half. One that makes no sense is dropped, and so refused.
fn pair(
    halves: &mut HashMap<String, Half>,
    stream: Stream,
    headers: &Headers,
    deadline: Instant,
) -> Option<Forward> {
    let kind = headers.get("streamtype")?;
    let port: u16 = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let id = match (headers.get("requestid"), kind) {
        (Some(id), _) => id.to_owned(),
        // The oldest clients open the stream for the error, and then the one for the data.
        (None, "data") => stream.id().saturating_sub(2).to_string(),
        (None, _) => stream.id().to_string(),
    };
    let half = halves.entry(id.clone()).or_insert(Half {
        port,
        data: None,
        error: None,
        deadline,
    });
    match kind {
        "data" if half.port == port => half.data = Some(stream),
        "error" if half.port == port => half.error = Some(stream),
        _ => return None,
    }
    match (half.data.take(), half.error.take()) {
        (Some(data), Some(error)) => {
            halves.remove(&id);
            Some(Forward { port, data, error })
        }
        (data, error) => {
            (half.data, half.error) = (data, error);
            None
        }
    }
}

async fn fixed<IO>(
    io: IO,
    form: Form,
    ports: &[u16],
    limits: Limits,
) -> (Connection, VecDeque<Forward>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let make = |shared: &Arc<Shared>| {
        let mut forwards = VecDeque::new();
        for (id, port) in (0..).step_by(2).zip(ports.iter().copied().take(MAX_PORTS)) {
            let (data, error) = (shared.channel(id), shared.channel(id + 1));
            // Each channel begins with its port.
            data.greet(Bytes::copy_from_slice(&port.to_le_bytes()));
            error.greet(Bytes::copy_from_slice(&port.to_le_bytes()));
            forwards.push_back(Forward { port, data, error });
        }
        forwards
    };
    channels::start(io, form, limits, make).await
}

/// Serves a session to its end: `dial` connects to a port, or says in the words for the user why it cannot.
pub async fn serve<D, F, IO>(mut session: ForwardSession, dial: D)
where
    D: Fn(u16) -> F,
    F: Future<Output = Result<IO, String>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut forwards = JoinSet::new();
    loop {
        tokio::select! {
            forward = session.next() => {
                let Some(forward) = forward else { break };
                let dialing = dial(forward.port);
                forwards.spawn(async move { run(forward, dialing.await).await });
            }
            Some(_) = forwards.join_next() => {}
        }
    }
    let gone = session.connection.closed();
    tokio::pin!(gone);
    loop {
        tokio::select! {
            // Their streams fail now, but whom they dialed may keep silent for ever.
            () = &mut gone => break,
            ended = forwards.join_next() => {
                if ended.is_none() {
                    break;
                }
            }
        }
    }
}

async fn run<IO>(mut forward: Forward, dialed: Result<IO, String>) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match dialed {
        Ok(mut connection) => {
            // A connection that is cut is cut on the other side as well, by dropping both.
            tokio::io::copy_bidirectional(&mut forward.data, &mut connection).await?;
        }
        Err(why) => forward.error.write_all(why.as_bytes()).await?,
    }
    forward.data.shutdown().await?;
    forward.error.shutdown().await
}
