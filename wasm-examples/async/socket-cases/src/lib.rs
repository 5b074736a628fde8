//! Tries what sockets must do by WASI 0.3, and prints what came of it.

#![allow(clippy::many_single_char_names, reason = "they are parts of addresses")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket_cases::{Answer, Net, Setting, Socket, Tcp, Udp};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
    UdpSocket,
};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter, spawn_local};
use wasip3::wit_stream;

struct Program;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let (mut output, text) = wit_stream::new();
        spawn_local(async move {
            let lines = socket_cases::run::<Sockets>().await;
            let text = lines.join("\n") + "\n";
            output.write_all(text.into_bytes()).await;
        });
        wasip3::cli::stdout::write_via_stream(text)
            .await
            .map_err(drop)
    }
}

wasip3::cli::command::export!(Program);

/// Those of WASI 0.3.
struct Sockets;

impl Net for Sockets {
    type Tcp = Connection;
    type Udp = Datagrams;
    const BINDS: bool = true;
}

type Told = FutureReader<Result<(), ErrorCode>>;

/// A TCP socket, with its streams once they were asked for.
struct Connection {
    socket: TcpSocket,
    connections: Option<StreamReader<TcpSocket>>,
    sending: Option<(StreamWriter<u8>, Told)>,
    receiving: Option<Receiving>,
}

enum Receiving {
    Open(StreamReader<u8>, Told),
    Over(Answer<()>),
}

/// A UDP socket.
struct Datagrams(UdpSocket);

impl From<TcpSocket> for Connection {
    fn from(socket: TcpSocket) -> Self {
        Self {
            socket,
            connections: None,
            sending: None,
            receiving: None,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn name(code: ErrorCode) -> String {
    let name = format!("{code:?}");
    name.rsplit(':').next().unwrap_or(&name).to_owned()
}

fn family(is_v6: bool) -> IpAddressFamily {
    if is_v6 {
        IpAddressFamily::Ipv6
    } else {
        IpAddressFamily::Ipv4
    }
}

fn told(address: SocketAddr) -> IpSocketAddress {
    match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress {
                port: v4.port(),
                address: (a, b, c, d),
            })
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            })
        }
    }
}

fn heard(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(v4) => {
            let (a, b, c, d) = v4.address;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), v4.port)
        }
        IpSocketAddress::Ipv6(v6) => {
            let (a, b, c, d, e, f, g, h) = v6.address;
            let ip = Ipv6Addr::new(a, b, c, d, e, f, g, h);
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port, v6.flow_info, v6.scope_id))
        }
    }
}

impl Socket for Connection {
    fn create(is_v6: bool) -> Answer<Self> {
        TcpSocket::create(family(is_v6))
            .map(Self::from)
            .map_err(name)
    }

    async fn bind(&self, to: SocketAddr) -> Answer<()> {
        self.socket.bind(told(to)).map_err(name)
    }

    fn local(&self) -> Answer<SocketAddr> {
        self.socket.get_local_address().map(heard).map_err(name)
    }

    fn remote(&self) -> Answer<SocketAddr> {
        self.socket.get_remote_address().map(heard).map_err(name)
    }

    fn is_v6(&self) -> bool {
        self.socket.get_address_family() == IpAddressFamily::Ipv6
    }

    fn get(&self, what: Setting) -> Answer<u64> {
        match what {
            Setting::KeepAliveIdleTime => self.socket.get_keep_alive_idle_time(),
            Setting::KeepAliveInterval => self.socket.get_keep_alive_interval(),
            Setting::KeepAliveCount => self.socket.get_keep_alive_count().map(u64::from),
            Setting::HopLimit => self.socket.get_hop_limit().map(u64::from),
            Setting::ReceiveBufferSize => self.socket.get_receive_buffer_size(),
            Setting::SendBufferSize => self.socket.get_send_buffer_size(),
        }
        .map_err(name)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cases have small ones")]
    fn set(&self, what: Setting, value: u64) -> Answer<()> {
        match what {
            Setting::KeepAliveIdleTime => self.socket.set_keep_alive_idle_time(value),
            Setting::KeepAliveInterval => self.socket.set_keep_alive_interval(value),
            Setting::KeepAliveCount => self.socket.set_keep_alive_count(value as u32),
            Setting::HopLimit => self.socket.set_hop_limit(value as u8),
            Setting::ReceiveBufferSize => self.socket.set_receive_buffer_size(value),
            Setting::SendBufferSize => self.socket.set_send_buffer_size(value),
        }
        .map_err(name)
    }
}

impl Tcp for Connection {
    async fn connect(&mut self, to: SocketAddr) -> Answer<()> {
        self.socket.connect(told(to)).await.map_err(name)
    }

    async fn listen(&mut self) -> Answer<()> {
        self.connections = Some(self.socket.listen().map_err(name)?);
        Ok(())
    }

    async fn accept(&mut self) -> Answer<Self> {
        let connections = self.connections.as_mut().ok_or("it does not listen")?;
        let next = connections.next().await;
        Ok(next.ok_or("there is no next one")?.into())
    }

    fn is_listening(&self) -> bool {
        self.socket.get_is_listening()
    }

    fn set_backlog(&self, size: u64) -> Answer<()> {
        self.socket.set_listen_backlog_size(size).map_err(name)
    }

    async fn send(&mut self, data: Vec<u8>) -> Answer<()> {
        let (writer, _) = self.sending.get_or_insert_with(|| {
            let (writer, stream) = wit_stream::new();
            (writer, self.socket.send(stream))
        });
        if writer.write_all(data).await.is_empty() {
            return Ok(());
        }
        // It takes no more: the future says why.
        match self.sending.take() {
            Some((_, told)) => told.await.map_err(name).and(Err("nothing more".to_owned())),
            None => Ok(()),
        }
    }

    async fn finish(&mut self) -> Answer<()> {
        match self.sending.take() {
            Some((writer, told)) => {
                drop(writer);
                told.await.map_err(name)
            }
            None => Ok(()),
        }
    }

    async fn receive(&mut self) -> Answer<Vec<u8>> {
        let receiving = self.receiving.get_or_insert_with(|| {
            let (stream, told) = self.socket.receive();
            Receiving::Open(stream, told)
        });
        if let Receiving::Open(stream, _) = receiving {
            let (result, data) = stream.read(Vec::with_capacity(64 << 10)).await;
            if !data.is_empty() || matches!(result, StreamResult::Complete(_)) {
                return Ok(data);
            }
        }
        match self.receiving.take() {
            Some(Receiving::Open(stream, told)) => {
                drop(stream);
                let ended = told.await.map_err(name);
                self.receiving = Some(Receiving::Over(ended.clone()));
                ended.map(|()| Vec::new())
            }
            Some(Receiving::Over(ended)) => {
                self.receiving = Some(Receiving::Over(ended.clone()));
                ended.map(|()| Vec::new())
            }
            None => Ok(Vec::new()),
        }
    }
}

impl Socket for Datagrams {
    fn create(is_v6: bool) -> Answer<Self> {
        UdpSocket::create(family(is_v6)).map(Self).map_err(name)
    }

    async fn bind(&self, to: SocketAddr) -> Answer<()> {
        self.0.bind(told(to)).map_err(name)
    }

    fn local(&self) -> Answer<SocketAddr> {
        self.0.get_local_address().map(heard).map_err(name)
    }

    fn remote(&self) -> Answer<SocketAddr> {
        self.0.get_remote_address().map(heard).map_err(name)
    }

    fn is_v6(&self) -> bool {
        self.0.get_address_family() == IpAddressFamily::Ipv6
    }

    fn get(&self, what: Setting) -> Answer<u64> {
        match what {
            Setting::HopLimit => self.0.get_unicast_hop_limit().map(u64::from),
            Setting::ReceiveBufferSize => self.0.get_receive_buffer_size(),
            Setting::SendBufferSize => self.0.get_send_buffer_size(),
            _ => return Err("there is no such option".to_owned()),
        }
        .map_err(name)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cases have small ones")]
    fn set(&self, what: Setting, value: u64) -> Answer<()> {
        match what {
            Setting::HopLimit => self.0.set_unicast_hop_limit(value as u8),
            Setting::ReceiveBufferSize => self.0.set_receive_buffer_size(value),
            Setting::SendBufferSize => self.0.set_send_buffer_size(value),
            _ => return Err("there is no such option".to_owned()),
        }
        .map_err(name)
    }
}

impl Udp for Datagrams {
    fn connect(&mut self, to: Option<SocketAddr>) -> Answer<()> {
        match to {
            Some(to) => self.0.connect(told(to)),
            None => self.0.disconnect(),
        }
        .map_err(name)
    }

    async fn send(&mut self, data: Vec<u8>, to: Option<SocketAddr>) -> Answer<()> {
        self.0.send(data, to.map(told)).await.map_err(name)
    }

    async fn receive(&mut self) -> Answer<(Vec<u8>, SocketAddr)> {
        let (data, from) = self.0.receive().await.map_err(name)?;
        Ok((data, heard(from)))
    }
}
