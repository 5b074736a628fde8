//! Asking the host's name servers about names of others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
};

use crate::sync::lock;

/// Where the host says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Name servers that are asked, one after the other.
const MAX_SERVERS: usize = 3;
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that are under way at a time; one more fails at once.
const MAX_ASKED: usize = 256;
/// How long what the host says is believed without a look.
const FRESH: Duration = Duration::from_secs(5);
/// Longest answer by UDP.
const MAX_ANSWER: usize = 4096;

/// The host's name servers, and when they were read; none before the first look.
type Servers = Option<(Instant, Vec<SocketAddr>)>;

/// Asks, one question by one socket of its own, so that nobody else can answer it by guessing.
#[derive(Clone)]
pub(super) struct Forwarder {
    /// Where not to ask: there, we answer ourselves.
    own: Option<SocketAddr>,
    places: Arc<Semaphore>,
    servers: Arc<Mutex<Servers>>,
}

impl Forwarder {
    pub(super) fn new(own: Option<SocketAddr>) -> Self {
        Self {
            own,
            places: Arc::new(Semaphore::new(MAX_ASKED)),
            servers: Arc::default(),
        }
    }

    /// What the first name server says that says something.
    pub(super) async fn ask(&self, request: &[u8], udp: bool) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        for server in self.servers().await {
            let asked = async {
                if udp {
                    by_udp(request, server).await
                } else {
                    by_tcp(request, server).await
                }
            };
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
                return Some(answer);
            }
        }
        None
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        if let Some((read, servers)) = &*lock(&self.servers)
            && read.elapsed() < FRESH
        {
            return servers.clone();
        }
        let read = tokio::fs::read_to_string(Path::new(RESOLV_CONF)).await;
        let mut servers = parse(&read.unwrap_or_default());
        servers.retain(|server| Some(*server) != self.own);
        *lock(&self.servers) = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// The name servers of a `resolv.conf`.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // An interface may be named behind the address.
        let ip: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(ip, 53))
    });
    servers.take(MAX_SERVERS).collect()
}

/// Sends the request under a number of its own, and waits for the answer to that.
async fn by_udp(request: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (asked, number) = renumbered(request);
    socket.send(&asked).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = restored(&buffer[..length], number, request) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(request: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(server).await?;
    let (asked, number) = renumbered(request);
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&asked);
    socket.write_all(&framed).await?;
    let length = socket.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    socket.read_exact(&mut answer).await?;
    restored(&answer, number, request).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn renumbered(request: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let number: [u8; 2] = rand::random();
    let mut asked = request.to_vec();
    if let Some(place) = asked.first_chunk_mut::<2>() {
        *place = number;
    }
    (asked, number)
}

/// The answer under the number that the client gave, if it is one to what was asked.
fn restored(answer: &[u8], number: [u8; 2], request: &[u8]) -> Option<Vec<u8>> {
    let (got, rest) = answer.split_first_chunk::<2>()?;
    let is_answer = rest.len() >= 10 && rest[0] & 0x80 != 0;
    if *got != number || !is_answer {
        return None;
    }
    let mut answer = request.first_chunk::<2>()?.to_vec();
    answer.extend_from_slice(rest);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\n nameserver fe80::1%eth0 \nnameserver x\n";
        let expected: Vec<SocketAddr> = ["192.0.2.1:53", "[fe80::1]:53"]
            .map(|one| one.parse().unwrap())
            .to_vec();
        assert_eq!(parse(text), expected);
        assert_eq!(
            parse(&"nameserver 192.0.2.1\n".repeat(9)).len(),
            MAX_SERVERS
        );
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let request = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let mut answer = request;
        answer[..3].copy_from_slice(&[1, 2, 0x81]);
        let restored = |number| super::restored(&answer, number, &request);
        assert_eq!(restored([1, 2]).unwrap()[..3], [7, 7, 0x81]);
        assert_eq!(restored([1, 3]), None);
        assert_eq!(super::restored(&request, [7, 7], &request), None);
        assert_eq!(super::restored(&answer[..5], [1, 2], &request), None);
    }
}
