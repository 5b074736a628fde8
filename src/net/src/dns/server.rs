//! Who listens, and how much of it at a time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
};

use super::{
    MAX_REQUEST,
    forward::Forwarder,
    message::{self, Reply},
};
use crate::{NetError, PodNetwork, fabric::Inner};

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// How long to rest when the host has no more descriptors.
const REST: Duration = Duration::from_millis(50);
/// The port of DNS.
const PORT: u16 = 53;

/// The DNS service of a fabric: it ends when this is dropped.
#[derive(Debug)]
pub struct DnsTask {
    _tasks: JoinSet<()>,
}

/// Sockets of the host for the cluster's DNS: UDP and TCP at one address.
#[derive(Debug)]
pub struct DnsSockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl DnsSockets {
    /// Binds both. Port 0 picks one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        // What TCP gets for port 0 may be taken in UDP: a few tries find one that is free in both.
        let mut tries = if address.port() == 0 { 8 } else { 1 };
        loop {
            tries -= 1;
            let tcp = TcpListener::bind(address).await?;
            let address = tcp.local_addr()?;
            match UdpSocket::bind(address).await {
                Ok(udp) => return Ok(Self { udp, tcp, address }),
                Err(error) if tries == 0 => return Err(error),
                Err(_taken) => {}
            }
        }
    }

    /// Where they are.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn serve(self, fabric: Arc<Inner>) -> DnsTask {
        let answerer = Answerer {
            fabric,
            forwarder: Some(Forwarder::new(Some(self.address))),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(host_datagrams(self.udp, answerer.clone()));
        tasks.spawn(host_connections(self.tcp, answerer));
        DnsTask { _tasks: tasks }
    }
}

/// Answers in the fabric, at the address of this network.
pub(crate) fn serve_fabric(fabric: Arc<Inner>, network: PodNetwork) -> Result<DnsTask, NetError> {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    let (udp, tcp) = (network.bind_udp(any)?, network.listen(any)?);
    let forwarder = fabric.config.outside.everything;
    let answerer = Answerer {
        fabric,
        forwarder: forwarder.then(|| Forwarder::new(None)),
    };
    let mut tasks = JoinSet::new();
    let by_udp = answerer.clone();
    tasks.spawn(async move {
        // Held as long as the socket is.
        let _network = network;
        let udp = Arc::new(udp);
        while let Ok(datagram) = udp.recv_from().await {
            let (socket, to) = (udp.clone(), datagram.from);
            by_udp.datagram(datagram.data, move |answer| {
                let _lost = socket.send_to(answer.into(), to);
            });
        }
    });
    tasks.spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(place) = places.clone().acquire_owned().await
            && let Ok((stream, _)) = tcp.accept().await
        {
            let answerer = answerer.clone();
            tokio::spawn(async move {
                let _place = place;
                answerer.connection(stream).await;
            });
        }
    });
    Ok(DnsTask { _tasks: tasks })
}

#[derive(Clone)]
struct Answerer {
    fabric: Arc<Inner>,
    forwarder: Option<Forwarder>,
}

impl Answerer {
    /// Answers a datagram: at once if it is about the cluster, else by a task. How many of these there are, the forwarder
    /// bounds.
    fn datagram(&self, request: Bytes, send: impl FnOnce(Vec<u8>) + Send + 'static) {
        if request.len() > MAX_REQUEST {
            return;
        }
        match message::reply(&self.fabric, &request, true, self.forwarder.is_some()) {
            Reply::Answer(answer) => send(answer),
            Reply::Ask { failed, limit } => {
                let answerer = self.clone();
                tokio::spawn(async move {
                    send(answerer.ask(&request, true, failed, limit).await);
                });
            }
            Reply::Nothing => {}
        }
    }

    async fn ask(&self, request: &[u8], udp: bool, failed: Vec<u8>, limit: usize) -> Vec<u8> {
        let asked = match &self.forwarder {
            Some(forwarder) => forwarder.ask(request, udp).await,
            None => None,
        };
        asked
            .and_then(|answer| message::fit(answer, limit))
            .unwrap_or(failed)
    }

    /// Answers one request after the other, until there is none for a while.
    async fn connection(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        loop {
            let request = tokio::time::timeout(IDLE, read(&mut stream)).await;
            let Ok(Ok(request)) = request else { return };
            let forwards = self.forwarder.is_some();
            let answer = match message::reply(&self.fabric, &request, false, forwards) {
                Reply::Answer(answer) => answer,
                Reply::Ask { failed, limit } => self.ask(&request, false, failed, limit).await,
                Reply::Nothing => return,
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                return;
            };
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            let written = tokio::time::timeout(IDLE, stream.write_all(&framed)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    Ok(request)
}

async fn host_datagrams(socket: UdpSocket, answerer: Answerer) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; MAX_REQUEST + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let back = socket.clone();
                let request = Bytes::copy_from_slice(&buffer[..length]);
                answerer.datagram(request, move |answer| {
                    let _lost = back.try_send_to(&answer, from);
                });
            }
            // An earlier answer found nobody; the socket is well.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn host_connections(listener: TcpListener, answerer: Answerer) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answerer = answerer.clone();
                tokio::spawn(async move {
                    let _place = place;
                    answerer.connection(stream).await;
                });
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}
