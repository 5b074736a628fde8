//! An asynchronous command that talks to itself: over TCP with both directions ended on their own, and over UDP.

use std::fmt::Write as _;

use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

const LENGTH: usize = 64 << 10;

struct Sockets;

impl wasip3::exports::cli::run::Guest for Sockets {
    async fn run() -> Result<(), ()> {
        let (mut output, lines) = wit_stream::new();
        spawn_local(async move {
            let text = match talk().await {
                Ok(text) => text,
                Err(error) => format!("failed: {error}\n"),
            };
            output.write_all(text.into_bytes()).await;
        });
        wasip3::cli::stdout::write_via_stream(lines)
            .await
            .map_err(drop)
    }
}

async fn talk() -> Result<String, ErrorCode> {
    let mut text = String::new();
    let found = resolve_addresses("localhost".to_owned()).await;
    if let Some(IpAddress::Ipv4((a, b, c, d))) = found.ok().and_then(|found| found.first().copied())
    {
        let _ = writeln!(text, "localhost: {a}.{b}.{c}.{d}");
    }
    let _ = writeln!(text, "TCP: {} bytes and back", tcp().await?);
    let nobody = TcpSocket::create(IpAddressFamily::Ipv4)?;
    if let Err(error) = nobody.connect(loopback(9)).await {
        let _ = writeln!(text, "nobody there: {error:?}");
    }
    let _ = writeln!(text, "UDP: {}", udp().await?);
    Ok(text)
}

/// Sends bytes to a server that sends back what it has got once that has come to its end.
async fn tcp() -> Result<usize, ErrorCode> {
    let server = TcpSocket::create(IpAddressFamily::Ipv4)?;
    server.bind(loopback(7))?;
    let mut connections = server.listen()?;
    spawn_local(async move {
        while let Some(connection) = connections.next().await {
            let (data, _received) = connection.receive();
            let data = data.collect().await;
            let (mut answer, stream) = wit_stream::new();
            let sent = connection.send(stream);
            answer.write_all(data).await;
            drop(answer);
            let _ = sent.await;
        }
    });
    let client = TcpSocket::create(IpAddressFamily::Ipv4)?;
    client.connect(loopback(7)).await?;
    let (mut request, stream) = wit_stream::new();
    let sent = client.send(stream);
    let (answer, received) = client.receive();
    request.write_all(vec![b'x'; LENGTH]).await;
    drop(request);
    sent.await?;
    let answer = answer.collect().await;
    received.await?;
    Ok(answer.len())
}

async fn udp() -> Result<String, ErrorCode> {
    let server = UdpSocket::create(IpAddressFamily::Ipv4)?;
    server.bind(loopback(7))?;
    let client = UdpSocket::create(IpAddressFamily::Ipv4)?;
    client.connect(loopback(7))?;
    client.send(b"hello".to_vec(), None).await?;
    let (data, _from) = server.receive().await?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

fn loopback(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port,
        address: (127, 0, 0, 1),
    })
}

wasip3::cli::command::export!(Sockets);
