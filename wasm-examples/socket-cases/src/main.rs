//! Tries what sockets must do by WASI 0.2, and prints what came of it.

#![allow(clippy::many_single_char_names, reason = "they are parts of addresses")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use socket_cases::{Answer, Net, Setting, Socket, Tcp, Udp};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

fn main() {
    // Nothing that is done here waits but in a call.
    let mut run = pin!(socket_cases::run::<Sockets>());
    match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lines) => println!("{}", lines.join("\n")),
        Poll::Pending => println!("it waits"),
    }
}

/// Those of WASI 0.2.
struct Sockets;

impl Net for Sockets {
    type Tcp = Connection;
    type Udp = Datagrams;
    const BINDS: bool = false;
}

/// A TCP socket. Its streams are to go before it.
struct Connection {
    streams: Option<(InputStream, OutputStream)>,
    socket: TcpSocket,
}

/// A UDP socket.
struct Datagrams {
    streams: Option<(IncomingDatagramStream, OutgoingDatagramStream)>,
    socket: UdpSocket,
}

fn name(code: ErrorCode) -> String {
    let words = code.name().split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    words.collect()
}

fn failure(error: StreamError) -> String {
    match error {
        StreamError::Closed => "Closed".to_owned(),
        // What it says is all there is to tell it by.
        StreamError::LastOperationFailed(error) => match error.to_debug_string() {
            text if text.contains("connection reset") => "ConnectionReset".to_owned(),
            text => text,
        },
    }
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
        let socket = create_tcp_socket(family(is_v6)).map_err(name)?;
        let streams = None;
        Ok(Self { streams, socket })
    }

    async fn bind(&self, to: SocketAddr) -> Answer<()> {
        let network = instance_network();
        self.socket.start_bind(&network, told(to)).map_err(name)?;
        self.socket.finish_bind().map_err(name)
    }

    fn local(&self) -> Answer<SocketAddr> {
        self.socket.local_address().map(heard).map_err(name)
    }

    fn remote(&self) -> Answer<SocketAddr> {
        self.socket.remote_address().map(heard).map_err(name)
    }

    fn is_v6(&self) -> bool {
        self.socket.address_family() == IpAddressFamily::Ipv6
    }

    fn get(&self, what: Setting) -> Answer<u64> {
        match what {
            Setting::KeepAliveIdleTime => self.socket.keep_alive_idle_time(),
            Setting::KeepAliveInterval => self.socket.keep_alive_interval(),
            Setting::KeepAliveCount => self.socket.keep_alive_count().map(u64::from),
            Setting::HopLimit => self.socket.hop_limit().map(u64::from),
            Setting::ReceiveBufferSize => self.socket.receive_buffer_size(),
            Setting::SendBufferSize => self.socket.send_buffer_size(),
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
        let network = instance_network();
        self.socket
            .start_connect(&network, told(to))
            .map_err(name)?;
        let streams = loop {
            match self.socket.finish_connect() {
                Err(ErrorCode::WouldBlock) => self.socket.subscribe().block(),
                finished => break finished.map_err(name)?,
            }
        };
        self.streams = Some(streams);
        Ok(())
    }

    async fn listen(&mut self) -> Answer<()> {
        self.socket.start_listen().map_err(name)?;
        self.socket.finish_listen().map_err(name)
    }

    async fn accept(&mut self) -> Answer<Self> {
        loop {
            match self.socket.accept() {
                Err(ErrorCode::WouldBlock) => self.socket.subscribe().block(),
                Err(code) => return Err(name(code)),
                Ok((socket, input, output)) => {
                    let streams = Some((input, output));
                    return Ok(Self { streams, socket });
                }
            }
        }
    }

    fn is_listening(&self) -> bool {
        self.socket.is_listening()
    }

    fn set_backlog(&self, size: u64) -> Answer<()> {
        self.socket.set_listen_backlog_size(size).map_err(name)
    }

    async fn send(&mut self, data: Vec<u8>) -> Answer<()> {
        let Some((_, output)) = &self.streams else {
            return self.socket.shutdown(ShutdownType::Send).map_err(name);
        };
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let room =
                usize::try_from(output.check_write().map_err(failure)?).unwrap_or(rest.len());
            if room == 0 {
                output.subscribe().block();
                continue;
            }
            let (piece, more) = rest.split_at(room.min(rest.len()));
            output.write(piece).map_err(failure)?;
            rest = more;
        }
        output.blocking_flush().map_err(failure)
    }

    async fn finish(&mut self) -> Answer<()> {
        self.socket.shutdown(ShutdownType::Send).map_err(name)
    }

    async fn receive(&mut self) -> Answer<Vec<u8>> {
        let Some((input, _)) = &self.streams else {
            let refused = self.socket.shutdown(ShutdownType::Receive);
            return refused.map(|()| Vec::new()).map_err(name);
        };
        match input.blocking_read(64 << 10) {
            Err(StreamError::Closed) => Ok(Vec::new()),
            other => other.map_err(failure),
        }
    }
}

impl Datagrams {
    fn streams(&mut self) -> Answer<&(IncomingDatagramStream, OutgoingDatagramStream)> {
        if self.streams.is_none() {
            self.streams = Some(self.socket.stream(None).map_err(name)?);
        }
        self.streams.as_ref().ok_or_else(String::new)
    }
}

impl Socket for Datagrams {
    fn create(is_v6: bool) -> Answer<Self> {
        let socket = create_udp_socket(family(is_v6)).map_err(name)?;
        let streams = None;
        Ok(Self { streams, socket })
    }

    async fn bind(&self, to: SocketAddr) -> Answer<()> {
        let network = instance_network();
        self.socket.start_bind(&network, told(to)).map_err(name)?;
        self.socket.finish_bind().map_err(name)
    }

    fn local(&self) -> Answer<SocketAddr> {
        self.socket.local_address().map(heard).map_err(name)
    }

    fn remote(&self) -> Answer<SocketAddr> {
        self.socket.remote_address().map(heard).map_err(name)
    }

    fn is_v6(&self) -> bool {
        self.socket.address_family() == IpAddressFamily::Ipv6
    }

    fn get(&self, what: Setting) -> Answer<u64> {
        match what {
            Setting::HopLimit => self.socket.unicast_hop_limit().map(u64::from),
            Setting::ReceiveBufferSize => self.socket.receive_buffer_size(),
            Setting::SendBufferSize => self.socket.send_buffer_size(),
            _ => return Err("there is no such option".to_owned()),
        }
        .map_err(name)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cases have small ones")]
    fn set(&self, what: Setting, value: u64) -> Answer<()> {
        match what {
            Setting::HopLimit => self.socket.set_unicast_hop_limit(value as u8),
            Setting::ReceiveBufferSize => self.socket.set_receive_buffer_size(value),
            Setting::SendBufferSize => self.socket.set_send_buffer_size(value),
            _ => return Err("there is no such option".to_owned()),
        }
        .map_err(name)
    }
}

impl Udp for Datagrams {
    fn connect(&mut self, to: Option<SocketAddr>) -> Answer<()> {
        // Only one pair of streams may be there at a time.
        self.streams = None;
        self.streams = Some(self.socket.stream(to.map(told)).map_err(name)?);
        Ok(())
    }

    async fn send(&mut self, data: Vec<u8>, to: Option<SocketAddr>) -> Answer<()> {
        let (_, outgoing) = self.streams()?;
        while outgoing.check_send().map_err(name)? == 0 {
            outgoing.subscribe().block();
        }
        let remote_address = to.map(told);
        let datagram = OutgoingDatagram {
            data,
            remote_address,
        };
        outgoing.send(&[datagram]).map(drop).map_err(name)
    }

    async fn receive(&mut self) -> Answer<(Vec<u8>, SocketAddr)> {
        let (incoming, _) = self.streams()?;
        loop {
            let mut datagrams = incoming.receive(1).map_err(name)?;
            if let Some(datagram) = datagrams.pop() {
                return Ok((datagram.data, heard(datagram.remote_address)));
            }
            incoming.subscribe().block();
        }
    }
}
