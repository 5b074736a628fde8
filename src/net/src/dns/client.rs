//! Asking DNS servers by a pod's own network, for pods that have servers of their own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{PodNetwork, ResolveError};

/// Servers that are asked, one after the other: as many as a `resolv.conf` may have.
const MAX_SERVERS: usize = 3;
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses that are taken from one answer.
const MAX_ADDRESSES: usize = 64;
/// The port of DNS.
const PORT: u16 = 53;

/// The addresses of the first of these names that has any: those of IPv4, else of IPv6.
pub(crate) async fn lookup(
    network: &PodNetwork,
    servers: &[IpAddr],
    names: impl Iterator<Item = String>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut failed = None;
    let mut last = String::new();
    for name in names {
        for kind in [RecordType::A, RecordType::AAAA] {
            match ask(network, servers, &name, kind).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                // Of another name, the servers may know more.
                Err(Failure::Refused(source)) => failed = Some(source),
                Err(Failure::Silent(source)) => return Err(ResolveError::Outside { name, source }),
            }
        }
        last = name;
    }
    Err(match failed {
        Some(source) => ResolveError::Outside { name: last, source },
        None => ResolveError::NotFound(last),
    })
}

/// Why no server said anything about a name.
enum Failure {
    /// The last one would not, or could not.
    Refused(io::Error),
    /// The last one did not answer.
    Silent(io::Error),
}

/// What the first server says that says something.
async fn ask(
    network: &PodNetwork,
    servers: &[IpAddr],
    name: &str,
    kind: RecordType,
) -> Result<Vec<IpAddr>, Failure> {
    let mut failed = Failure::Silent(io::Error::other("there is no server to ask"));
    let request = request(name, kind).map_err(Failure::Refused)?;
    for &server in servers.iter().take(MAX_SERVERS) {
        let asking = exchange(network, SocketAddr::new(server, PORT), &request);
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(addresses(&answer)),
                code => {
                    failed = Failure::Refused(io::Error::other(format!("{server} says {code}")));
                }
            },
            Ok(Err(error)) => failed = Failure::Silent(error),
            Err(_elapsed) => failed = Failure::Silent(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(failed)
}

fn request(name: &str, kind: RecordType) -> io::Result<Message> {
    let name = Name::from_ascii(format!("{name}.")).map_err(io::Error::other)?;
    let mut request = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(name, kind));
    Ok(request)
}

/// Asks by UDP, and if the answer does not fit there, by TCP.
async fn exchange(
    network: &PodNetwork,
    server: SocketAddr,
    request: &Message,
) -> io::Result<Message> {
    let asked = request.to_vec().map_err(io::Error::other)?;
    let socket = network.bind_udp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))?;
    // From now on, nobody else is heard.
    socket.connect(Some(server));
    socket.send_to(asked.clone().into(), server)?;
    let answer = loop {
        let datagram = socket.recv_from().await?;
        if let Some(answer) = answer_to(request, &datagram.data) {
            break answer;
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = network.connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(&asked).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    answer_to(request, &answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The message, if it answers the request.
fn answer_to(request: &Message, answer: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(answer).ok()?;
    let answers = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id
        && answer.queries == request.queries;
    answers.then_some(answer)
}

/// The addresses in an answer, at whatever end of its aliases.
fn addresses(answer: &Message) -> Vec<IpAddr> {
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
    addresses.take(MAX_ADDRESSES).collect()
}
