//! UDP.

use crate::{Answer, Net, Setting, Socket, Udp, at, expect, fails, settings, tell};

pub(crate) async fn run<N: Net>(lines: &mut Vec<String>) {
    tell(lines, "udp addresses", addresses::<N>().await);
    tell(lines, "udp bind", bind::<N>().await);
    tell(lines, "udp states", states::<N>().await);
    tell(lines, "udp settings", options::<N>());
    tell(lines, "udp talk", talk::<N>("127.0.0.1:0").await);
    tell(lines, "udp talk v6", talk::<N>("[::1]:0").await);
    tell(lines, "udp connected", connected::<N>().await);
    tell(lines, "udp sizes", sizes::<N>().await);
}

async fn bound<N: Net>(to: &str) -> Answer<N::Udp> {
    let to = at(to);
    let socket = N::Udp::create(to.is_ipv6())?;
    socket.bind(to).await?;
    Ok(socket)
}

async fn addresses<N: Net>() -> Answer<()> {
    for (is_v6, address) in [
        (false, "[::1]:0"),
        (true, "127.0.0.1:0"),
        (true, "[::ffff:127.0.0.1]:0"),
    ] {
        let socket = N::Udp::create(is_v6)?;
        fails(address, socket.bind(at(address)).await, "InvalidArgument")?;
    }
    for address in ["0.0.0.0:80", "127.0.0.1:0", "[::1]:80"] {
        let mut socket = bound::<N>("127.0.0.1:0").await?;
        let result = socket.connect(Some(at(address)));
        fails(address, result, "InvalidArgument")?;
        let mut socket = bound::<N>("127.0.0.1:0").await?;
        let result = socket.send(vec![0], Some(at(address))).await;
        fails(address, result, "InvalidArgument")?;
    }
    let foreign = N::Udp::create(false)?;
    let result = foreign.bind(at("192.0.2.1:0")).await;
    fails("a foreign address", result, "AddressNotBindable")
}

async fn bind<N: Net>() -> Answer<()> {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
        let socket = bound::<N>(address).await?;
        let local = socket.local()?;
        expect(address, local.ip(), at(address).ip())?;
        expect("a port", local.port() != 0, true)?;
        expect("family", socket.is_v6(), local.is_ipv6())?;
        let other = N::Udp::create(local.is_ipv6())?;
        fails("a taken port", other.bind(local).await, "AddressInUse")?;
        fails("twice", socket.bind(at(address)).await, "InvalidState")?;
    }
    Ok(())
}

async fn states<N: Net>() -> Answer<()> {
    let mut socket = N::Udp::create(false)?;
    fails("local, unbound", socket.local(), "InvalidState")?;
    fails("remote, unbound", socket.remote(), "InvalidState")?;
    fails("receive, unbound", socket.receive().await, "InvalidState")?;
    let there = bound::<N>("127.0.0.1:0").await?.local()?;
    if N::BINDS {
        let mut socket = N::Udp::create(false)?;
        socket.send(vec![0], Some(there)).await?;
        expect("its port", socket.local()?.port() != 0, true)?;
        let mut socket = N::Udp::create(false)?;
        socket.connect(Some(there))?;
        expect("remote", socket.remote()?, there)?;
    }
    let mut socket = bound::<N>("127.0.0.1:0").await?;
    fails("remote", socket.remote(), "InvalidState")?;
    let sent = socket.send(vec![0], None).await;
    fails("to nobody", sent, "InvalidArgument")
}

fn options<N: Net>() -> Answer<()> {
    let all = [
        (Setting::HopLimit, 42),
        (Setting::ReceiveBufferSize, 65_536),
        (Setting::SendBufferSize, 32_768),
    ];
    for is_v6 in [false, true] {
        settings(&N::Udp::create(is_v6)?, &all)?;
    }
    Ok(())
}

async fn talk<N: Net>(to: &str) -> Answer<()> {
    let mut server = bound::<N>(to).await?;
    let mut client = bound::<N>(to).await?;
    let there = server.local()?;
    for text in ["first", "second", ""] {
        client.send(text.as_bytes().to_vec(), Some(there)).await?;
    }
    for text in ["first", "second", ""] {
        let (data, from) = server.receive().await?;
        expect("datagram", data.as_slice(), text.as_bytes())?;
        expect("sender", from, client.local()?)?;
        server.send(data, Some(from)).await?;
        let (data, from) = client.receive().await?;
        expect("answer", data.as_slice(), text.as_bytes())?;
        expect("sender", from, there)?;
    }
    Ok(())
}

async fn connected<N: Net>() -> Answer<()> {
    let mut server = bound::<N>("127.0.0.1:0").await?;
    let mut stranger = bound::<N>("127.0.0.1:0").await?;
    let mut client = bound::<N>("127.0.0.1:0").await?;
    let (there, here) = (server.local()?, client.local()?);
    client.connect(Some(there))?;
    expect("remote", client.remote()?, there)?;
    let elsewhere = Some(stranger.local()?);
    let result = client.send(vec![0], elsewhere).await;
    fails("to another one", result, "InvalidArgument")?;
    client.send(b"1".to_vec(), None).await?;
    client.send(b"2".to_vec(), Some(there)).await?;
    expect("first", server.receive().await?.0.as_slice(), b"1")?;
    expect("second", server.receive().await?.0.as_slice(), b"2")?;
    // What strangers say is not heard.
    stranger.send(b"psst".to_vec(), Some(here)).await?;
    server.send(b"3".to_vec(), Some(here)).await?;
    expect("heard", client.receive().await?.0.as_slice(), b"3")?;
    client.connect(elsewhere)?;
    stranger.send(b"4".to_vec(), Some(here)).await?;
    expect("heard", client.receive().await?.0.as_slice(), b"4")?;
    client.connect(None)?;
    fails("remote", client.remote(), "InvalidState")?;
    server.send(b"5".to_vec(), Some(here)).await?;
    expect("heard", client.receive().await?.0.as_slice(), b"5")
}

async fn sizes<N: Net>() -> Answer<()> {
    let mut server = bound::<N>("127.0.0.1:0").await?;
    let mut client = bound::<N>("127.0.0.1:0").await?;
    let there = Some(server.local()?);
    client.send(vec![7; 65_507], there).await?;
    expect("length", server.receive().await?.0.len(), 65_507)?;
    let result = client.send(vec![7; 65_508], there).await;
    fails("too long", result, "DatagramTooLarge")
}
