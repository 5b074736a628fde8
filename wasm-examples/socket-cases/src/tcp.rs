//! TCP.

use crate::{Answer, Net, Setting, Socket, Tcp, at, expect, fails, settings, tell};

/// Enough that it does not fit into any buffer.
const LONG: usize = 1 << 20;

pub(crate) async fn run<N: Net>(lines: &mut Vec<String>) {
    tell(lines, "tcp addresses", addresses::<N>().await);
    tell(lines, "tcp bind", bind::<N>().await);
    tell(lines, "tcp states", states::<N>().await);
    tell(lines, "tcp listening", listening::<N>().await);
    tell(lines, "tcp connect", connect::<N>().await);
    tell(lines, "tcp settings", options::<N>().await);
    tell(lines, "tcp inherited", inherited::<N>().await);
    tell(lines, "tcp talk", talk::<N>("127.0.0.1:0").await);
    tell(lines, "tcp talk v6", talk::<N>("[::1]:0").await);
    tell(lines, "tcp half close", half_close::<N>().await);
    tell(lines, "tcp closed", closed::<N>().await);
    tell(lines, "tcp reset", reset::<N>().await);
    tell(lines, "tcp reuse", reuse::<N>().await);
    tell(lines, "tcp ports", ports::<N>().await);
}

async fn bound<N: Net>(to: &str) -> Answer<N::Tcp> {
    let to = at(to);
    let socket = N::Tcp::create(to.is_ipv6())?;
    socket.bind(to).await?;
    Ok(socket)
}

async fn server<N: Net>(to: &str) -> Answer<N::Tcp> {
    let mut socket = bound::<N>(to).await?;
    socket.listen().await?;
    Ok(socket)
}

/// Both ends of a connection.
async fn pair<N: Net>(to: &str) -> Answer<(N::Tcp, N::Tcp)> {
    let mut server = server::<N>(to).await?;
    let mut near = N::Tcp::create(at(to).is_ipv6())?;
    near.connect(server.local()?).await?;
    Ok((near, server.accept().await?))
}

async fn addresses<N: Net>() -> Answer<()> {
    for (is_v6, address) in [
        (false, "[::1]:0"),
        (true, "127.0.0.1:0"),
        (true, "[::ffff:127.0.0.1]:0"),
        (false, "224.0.0.1:0"),
        (false, "255.255.255.255:0"),
        (true, "[ff11::1]:0"),
    ] {
        let socket = N::Tcp::create(is_v6)?;
        fails(address, socket.bind(at(address)).await, "InvalidArgument")?;
        fails(address, socket.local(), "InvalidState")?;
    }
    for (is_v6, address) in [
        (false, "0.0.0.0:80"),
        (false, "127.0.0.1:0"),
        (false, "[::1]:80"),
        (false, "224.0.0.1:80"),
        (false, "255.255.255.255:80"),
        (true, "[::]:80"),
        (true, "[::1]:0"),
        (true, "127.0.0.1:80"),
        (true, "[::ffff:127.0.0.1]:80"),
    ] {
        let mut socket = N::Tcp::create(is_v6)?;
        let connected = socket.connect(at(address)).await;
        fails(address, connected, "InvalidArgument")?;
    }
    let foreign = N::Tcp::create(false)?;
    let result = foreign.bind(at("192.0.2.1:0")).await;
    fails("a foreign address", result, "AddressNotBindable")
}

async fn bind<N: Net>() -> Answer<()> {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let socket = bound::<N>(address).await?;
        let local = socket.local()?;
        expect(address, local.ip(), at(address).ip())?;
        if local.port() == 0 {
            return Err(format!("{address} has no port"));
        }
        expect("family", socket.is_v6(), local.is_ipv6())?;
        let other = N::Tcp::create(local.is_ipv6())?;
        fails("a taken port", other.bind(local).await, "AddressInUse")?;
        // It can be tried again with another one.
        other.bind(at(address)).await?;
        fails("twice", other.bind(at(address)).await, "InvalidState")?;
    }
    Ok(())
}

async fn states<N: Net>() -> Answer<()> {
    let mut socket = N::Tcp::create(false)?;
    fails("local, unbound", socket.local(), "InvalidState")?;
    fails("remote, unbound", socket.remote(), "InvalidState")?;
    expect("listening", socket.is_listening(), false)?;
    fails("receive, unbound", socket.receive().await, "InvalidState")?;
    let mut socket = N::Tcp::create(false)?;
    let sent = socket.send(vec![0]).await;
    fails("send, unbound", sent, "InvalidState")?;
    if !N::BINDS {
        let mut socket = N::Tcp::create(false)?;
        fails("listen, unbound", socket.listen().await, "InvalidState")?;
    }
    let (mut near, far) = pair::<N>("127.0.0.1:0").await?;
    expect("remote", near.remote()?, far.local()?)?;
    expect("local", near.local()?, far.remote()?)?;
    expect("listening", near.is_listening(), false)?;
    let there = far.local()?;
    fails("bind, connected", near.bind(there).await, "InvalidState")?;
    fails("listen, connected", near.listen().await, "InvalidState")?;
    fails(
        "connect, connected",
        near.connect(there).await,
        "InvalidState",
    )?;
    fails("backlog, connected", near.set_backlog(1), "InvalidState")
}

async fn listening<N: Net>() -> Answer<()> {
    let mut socket = bound::<N>("127.0.0.1:0").await?;
    fails("no backlog", socket.set_backlog(0), "InvalidArgument")?;
    socket.set_backlog(1)?;
    socket.listen().await?;
    expect("listening", socket.is_listening(), true)?;
    fails("remote", socket.remote(), "InvalidState")?;
    fails("listen", socket.listen().await, "InvalidState")?;
    fails("bind", socket.bind(at("127.0.0.1:0")).await, "InvalidState")?;
    let there = socket.local()?;
    fails("connect", socket.connect(there).await, "InvalidState")?;
    if N::BINDS {
        let mut unbound = N::Tcp::create(false)?;
        unbound.listen().await?;
        expect("its port", unbound.local()?.port() != 0, true)?;
    }
    Ok(())
}

async fn connect<N: Net>() -> Answer<()> {
    let nobody = bound::<N>("127.0.0.1:0").await?.local()?;
    let mut socket = N::Tcp::create(false)?;
    fails("nobody", socket.connect(nobody).await, "ConnectionRefused")?;
    fails("again", socket.connect(nobody).await, "InvalidState")?;
    let mut socket = N::Tcp::create(false)?;
    let outside = socket.connect(at("192.0.2.1:80")).await;
    fails("outside", outside, "RemoteUnreachable")?;
    // From a port that it chose.
    let mut server = server::<N>("127.0.0.1:0").await?;
    let mut socket = bound::<N>("127.0.0.1:0").await?;
    let local = socket.local()?;
    socket.connect(server.local()?).await?;
    expect("local", socket.local()?, local)?;
    expect("seen as", server.accept().await?.remote()?, local)
}

const SETTINGS: [(Setting, u64); 6] = [
    (Setting::KeepAliveIdleTime, 7_000_000_000),
    (Setting::KeepAliveInterval, 3_000_000_000),
    (Setting::KeepAliveCount, 5),
    (Setting::HopLimit, 42),
    (Setting::ReceiveBufferSize, 65_536),
    (Setting::SendBufferSize, 32_768),
];

async fn options<N: Net>() -> Answer<()> {
    for is_v6 in [false, true] {
        settings(&N::Tcp::create(is_v6)?, &SETTINGS)?;
    }
    let (near, far) = pair::<N>("127.0.0.1:0").await?;
    settings(&near, &SETTINGS)?;
    settings(&far, &SETTINGS)
}

async fn inherited<N: Net>() -> Answer<()> {
    let mut server = bound::<N>("127.0.0.1:0").await?;
    for (setting, value) in SETTINGS {
        server.set(setting, value)?;
    }
    server.listen().await?;
    let mut near = N::Tcp::create(false)?;
    near.connect(server.local()?).await?;
    let far = server.accept().await?;
    for (setting, value) in SETTINGS {
        expect("a connection's option", far.get(setting)?, value)?;
    }
    expect("family", far.is_v6(), false)
}

async fn talk<N: Net>(to: &str) -> Answer<()> {
    let (mut near, mut far) = pair::<N>(to).await?;
    near.send(b"question".to_vec()).await?;
    let mut question = Vec::new();
    while question.len() < 8 {
        question.extend(far.receive().await?);
    }
    expect("the question", question.as_slice(), b"question")?;
    far.send(b"answer".to_vec()).await?;
    let mut answer = Vec::new();
    while answer.len() < 6 {
        answer.extend(near.receive().await?);
    }
    expect("the answer", answer.as_slice(), b"answer")
}

/// One direction ends, the other goes on.
async fn half_close<N: Net>() -> Answer<()> {
    let (mut near, mut far) = pair::<N>("127.0.0.1:0").await?;
    near.send(b"all there is".to_vec()).await?;
    near.finish().await?;
    let mut all = Vec::new();
    loop {
        let piece = far.receive().await?;
        if piece.is_empty() {
            break;
        }
        all.extend(piece);
    }
    expect("what came", all.as_slice(), b"all there is")?;
    far.send(b"thanks".to_vec()).await?;
    expect("the answer", near.receive().await?.as_slice(), b"thanks")
}

/// The other end is gone, and nothing was lost by that.
async fn closed<N: Net>() -> Answer<()> {
    let (mut near, far) = pair::<N>("127.0.0.1:0").await?;
    drop(far);
    expect("the end", near.receive().await?.len(), 0)?;
    expect("the end again", near.receive().await?.len(), 0)?;
    match near.send(vec![0; LONG]).await {
        Ok(()) => Err("it can still be sent to".to_owned()),
        Err(_) => Ok(()),
    }
}

/// The other end is gone, and had something to read yet.
async fn reset<N: Net>() -> Answer<()> {
    let (mut near, far) = pair::<N>("127.0.0.1:0").await?;
    near.send(b"unread".to_vec()).await?;
    drop(far);
    fails("receive", near.receive().await, "ConnectionReset")
}

/// A server that is gone leaves its port at once, connections or not.
async fn reuse<N: Net>() -> Answer<()> {
    let mut first = server::<N>("127.0.0.1:0").await?;
    let address = first.local()?;
    let mut client = N::Tcp::create(false)?;
    client.connect(address).await?;
    let connection = first.accept().await?;
    drop(first);
    let mut second = N::Tcp::create(false)?;
    second.bind(address).await?;
    second.listen().await?;
    drop(connection);
    let mut client = N::Tcp::create(false)?;
    client.connect(address).await
}

/// As many as there are.
async fn ports<N: Net>() -> Answer<()> {
    let mut all = Vec::new();
    let refused = loop {
        let socket = N::Tcp::create(false)?;
        match socket.bind(at("127.0.0.1:0")).await {
            Ok(()) => all.push(socket),
            Err(error) => break error,
        }
        if all.len() > 70_000 {
            return Err("there is no end of them".to_owned());
        }
    };
    expect("no port left", refused.as_str(), "AddressInUse")?;
    all.pop();
    N::Tcp::create(false)?.bind(at("127.0.0.1:0")).await
}
