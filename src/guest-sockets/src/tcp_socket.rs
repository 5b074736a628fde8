//! A TCP socket's life, as `wasi:sockets/tcp@0.2` defines it.

use std::future::poll_fn;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use vaquita_net::{BoundPort, Listener, NetError, Payer, PodNetwork, Stream};
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

use super::options::{Options, at_least_one};
use super::stream::{Reader, Sending, Writer};
use super::{address, code_of};

type Connect = Pin<Box<dyn Future<Output = Result<Stream, NetError>> + Send>>;

/// Behind `wasi:sockets/tcp.tcp-socket`.
pub(super) struct TcpSocket {
    pub(super) family: IpAddressFamily,
    pub(super) options: Options,
    state: State,
}

/// Every operation has a start and a finish. Only connecting takes time in between.
enum State {
    Unbound,
    BindStarted(BoundPort),
    Bound(BoundPort),
    ListenStarted(Listener),
    Listening(Arc<Listener>),
    Connecting(Connect),
    /// Waiting for its finish to be called.
    ConnectDone(Result<Stream, NetError>),
    Connected(Arc<Stream>, Sending),
    Closed,
}

impl TcpSocket {
    pub(super) fn new(family: IpAddressFamily) -> Self {
        Self {
            family,
            options: Options::default(),
            state: State::Unbound,
        }
    }

    fn connected(
        family: IpAddressFamily,
        options: Options,
        stream: Stream,
    ) -> (Self, Reader, Writer) {
        let stream = Arc::new(stream);
        let sending = Sending::default();
        let reader = Reader::new(Arc::clone(&stream));
        let writer = Writer::new(Arc::clone(&stream), sending.clone());
        (
            Self {
                family,
                options,
                state: State::Connected(stream, sending),
            },
            reader,
            writer,
        )
    }

    /// A connection that came from a listener.
    pub(super) fn accepted(family: IpAddressFamily, options: Options, stream: Stream) -> Self {
        Self::connected(family, options, stream).0
    }

    pub(super) fn is_unbound(&self) -> bool {
        matches!(self.state, State::Unbound)
    }

    /// What accepts, once it listens.
    pub(super) fn listener(&self) -> Option<Arc<Listener>> {
        match &self.state {
            State::Listening(listener) => Some(Arc::clone(listener)),
            _ => None,
        }
    }

    /// The connection, once there is one.
    pub(super) fn stream(&self) -> Option<Arc<Stream>> {
        match &self.state {
            State::Connected(stream, _) => Some(Arc::clone(stream)),
            _ => None,
        }
    }

    /// Has somebody pay for what is sent and not read yet, once there is a connection.
    pub(super) fn charge_to(&self, payer: &Arc<dyn Payer>) {
        if let State::Connected(stream, _) = &self.state {
            stream.charge_to(Arc::clone(payer));
        }
    }

    /// What a call finds that comes at the wrong time.
    fn misplaced(&self) -> ErrorCode {
        match self.state {
            State::BindStarted(_)
            | State::ListenStarted(_)
            | State::Connecting(_)
            | State::ConnectDone(_) => ErrorCode::ConcurrencyConflict,
            _ => ErrorCode::InvalidState,
        }
    }

    pub(super) fn start_bind(
        &mut self,
        network: &PodNetwork,
        address: SocketAddr,
    ) -> Result<(), ErrorCode> {
        let State::Unbound = self.state else {
            return Err(self.misplaced());
        };
        address::check_local(self.family, address)?;
        self.state = State::BindStarted(network.bind(address).map_err(code_of)?);
        Ok(())
    }

    pub(super) fn finish_bind(&mut self) -> Result<(), ErrorCode> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::BindStarted(port) => {
                self.state = State::Bound(port);
                Ok(())
            }
            other => {
                self.state = other;
                Err(ErrorCode::NotInProgress)
            }
        }
    }

    pub(super) fn start_listen(&mut self) -> Result<(), ErrorCode> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Bound(port) => {
                self.state =
                    State::ListenStarted(port.listen(self.options.backlog).map_err(code_of)?);
                Ok(())
            }
            other => {
                self.state = other;
                Err(self.misplaced())
            }
        }
    }

    pub(super) fn finish_listen(&mut self) -> Result<(), ErrorCode> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::ListenStarted(listener) => {
                self.state = State::Listening(Arc::new(listener));
                Ok(())
            }
            other => {
                self.state = other;
                Err(ErrorCode::NotInProgress)
            }
        }
    }

    pub(super) fn accept(&mut self) -> Result<(Self, Reader, Writer), ErrorCode> {
        let State::Listening(listener) = &self.state else {
            return Err(ErrorCode::InvalidState);
        };
        match listener.try_accept() {
            Ok(Some((stream, _peer))) => {
                Ok(Self::connected(self.family, self.options.clone(), stream))
            }
            Ok(None) => Err(ErrorCode::WouldBlock),
            Err(error) => Err(code_of(error)),
        }
    }

    pub(super) fn start_connect(
        &mut self,
        network: &PodNetwork,
        to: SocketAddr,
    ) -> Result<(), ErrorCode> {
        if !matches!(self.state, State::Unbound | State::Bound(_)) {
            return Err(self.misplaced());
        }
        address::check_remote(self.family, to)?;
        let connect: Connect = match std::mem::replace(&mut self.state, State::Closed) {
            State::Bound(port) => Box::pin(port.connect(to)),
            _ => Box::pin(network.connect(to)),
        };
        self.state = State::Connecting(connect);
        Ok(())
    }

    pub(super) fn finish_connect(&mut self) -> Result<(Reader, Writer), ErrorCode> {
        let mut context = Context::from_waker(Waker::noop());
        if self.poll_connect(&mut context).is_pending() {
            return Err(ErrorCode::WouldBlock);
        }
        match std::mem::replace(&mut self.state, State::Closed) {
            State::ConnectDone(Ok(stream)) => {
                let options = std::mem::take(&mut self.options);
                let (socket, reader, writer) = Self::connected(self.family, options, stream);
                *self = socket;
                Ok((reader, writer))
            }
            State::ConnectDone(Err(error)) => Err(code_of(error)),
            other => {
                self.state = other;
                Err(ErrorCode::NotInProgress)
            }
        }
    }

    /// Ready unless a connect is under way.
    pub(super) fn poll_connect(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let State::Connecting(connect) = &mut self.state {
            let result = std::task::ready!(connect.as_mut().poll(context));
            self.state = State::ConnectDone(result);
        }
        Poll::Ready(())
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> Result<(), ErrorCode> {
        let State::Connected(stream, sending) = &self.state else {
            return Err(ErrorCode::InvalidState);
        };
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            stream.shutdown(Shutdown::Read)?;
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            sending.finish(stream)?;
        }
        Ok(())
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::BindStarted(port) | State::Bound(port) => Ok(port.local_addr()),
            State::ListenStarted(listener) => Ok(listener.local_addr()),
            State::Listening(listener) => Ok(listener.local_addr()),
            State::Connected(stream, _) => Ok(stream.local_addr()),
            State::Unbound | State::Connecting(_) | State::ConnectDone(_) | State::Closed => {
                Err(ErrorCode::InvalidState)
            }
        }
    }

    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Connected(stream, _) => Ok(stream.peer_addr()),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    /// Sets how many connections may wait, before it listens.
    pub(super) fn set_backlog(&mut self, size: u64) -> Result<(), ErrorCode> {
        let size = at_least_one(size)?;
        match self.state {
            State::Unbound | State::BindStarted(_) | State::Bound(_) => {}
            State::ListenStarted(_) | State::Listening(_) => return Err(ErrorCode::NotSupported),
            _ => return Err(ErrorCode::InvalidState),
        }
        self.options.backlog = Some(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pollable for TcpSocket {
    async fn ready(&mut self) {
        poll_fn(|context| match &self.state {
            State::Listening(listener) => listener.poll_accept_ready(context),
            _ => self.poll_connect(context),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_net::{Fabric, FabricConfig};
    use wasmtime_wasi::p2::{InputStream, OutputStream, StreamError};

    const ANY: &str = "0.0.0.0:80";

    fn network() -> PodNetwork {
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        fabric.attach(None).expect("an address")
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    fn listening(network: &PodNetwork, address: &str) -> TcpSocket {
        let mut socket = TcpSocket::new(IpAddressFamily::Ipv4);
        socket.start_bind(network, at(address)).expect("bound");
        socket.finish_bind().expect("bound");
        socket.start_listen().expect("listening");
        socket.finish_listen().expect("listening");
        socket
    }

    /// Both ends of a connection over the loopback.
    fn pair(network: &PodNetwork) -> [(TcpSocket, Reader, Writer); 2] {
        let mut listener = listening(network, ANY);
        let mut near = TcpSocket::new(IpAddressFamily::Ipv4);
        near.start_connect(network, at("127.0.0.1:80"))
            .expect("started");
        let (reader, writer) = near.finish_connect().expect("connected");
        [(near, reader, writer), listener.accept().expect("accepted")]
    }

    #[test]
    fn every_step_has_its_time() {
        let network = network();
        let mut socket = TcpSocket::new(IpAddressFamily::Ipv4);
        assert_eq!(socket.finish_bind(), Err(ErrorCode::NotInProgress));
        assert_eq!(
            socket.start_listen(),
            Err(ErrorCode::InvalidState),
            "not bound"
        );
        assert_eq!(socket.local_address(), Err(ErrorCode::InvalidState));
        socket.start_bind(&network, at(ANY)).expect("started");
        assert_eq!(socket.start_listen(), Err(ErrorCode::ConcurrencyConflict));
        assert_eq!(socket.finish_listen(), Err(ErrorCode::NotInProgress));
        socket.finish_bind().expect("bound");
        assert_eq!(socket.local_address(), Ok(at(ANY)));
        assert_eq!(
            socket.start_bind(&network, at(ANY)),
            Err(ErrorCode::InvalidState)
        );
        assert_eq!(socket.accept().err(), Some(ErrorCode::InvalidState));
        assert_eq!(
            socket.shutdown(Shutdown::Both),
            Err(ErrorCode::InvalidState)
        );
        socket.start_listen().expect("started");
        assert!(!socket.is_listening());
        socket.finish_listen().expect("listening");
        assert!(socket.is_listening());
        assert_eq!(socket.accept().err(), Some(ErrorCode::WouldBlock));
        let connect = socket.start_connect(&network, at("127.0.0.1:80"));
        assert_eq!(connect, Err(ErrorCode::InvalidState));
    }

    #[test]
    fn addresses_must_fit_their_purpose() {
        let network = network();
        let bind = |family, address| TcpSocket::new(family).start_bind(&network, at(address));
        let connect = |family, address| TcpSocket::new(family).start_connect(&network, at(address));
        let (v4, v6) = (IpAddressFamily::Ipv4, IpAddressFamily::Ipv6);
        for (family, address) in [
            (v4, "[::]:80"),
            (v6, ANY),
            (v6, "[::ffff:127.0.0.1]:80"),
            (v4, "224.0.0.1:80"),
            (v4, "255.255.255.255:80"),
        ] {
            assert_eq!(
                bind(family, address),
                Err(ErrorCode::InvalidArgument),
                "{address}"
            );
            assert_eq!(
                connect(family, address),
                Err(ErrorCode::InvalidArgument),
                "{address}"
            );
        }
        assert_eq!(bind(v4, "192.0.2.1:80"), Err(ErrorCode::AddressNotBindable));
        assert_eq!(connect(v4, "0.0.0.0:80"), Err(ErrorCode::InvalidArgument));
        assert_eq!(connect(v4, "127.0.0.1:0"), Err(ErrorCode::InvalidArgument));
        assert_eq!(bind(v6, "[::]:80"), Ok(()));
    }

    #[test]
    fn a_failed_bind_leaves_the_socket_as_it_was() {
        let network = network();
        let _first = listening(&network, ANY);
        let mut second = TcpSocket::new(IpAddressFamily::Ipv4);
        assert_eq!(
            second.start_bind(&network, at(ANY)),
            Err(ErrorCode::AddressInUse)
        );
        assert_eq!(second.start_bind(&network, at("0.0.0.0:81")), Ok(()));
    }

    #[tokio::test]
    async fn a_refused_connect_says_so_once() {
        let mut socket = TcpSocket::new(IpAddressFamily::Ipv4);
        socket
            .start_connect(&network(), at("127.0.0.1:80"))
            .expect("started");
        socket.ready().await;
        assert_eq!(
            socket.finish_connect().err(),
            Some(ErrorCode::ConnectionRefused)
        );
        assert_eq!(
            socket.finish_connect().err(),
            Some(ErrorCode::NotInProgress)
        );
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let network = network();
        let [
            (mut near, mut reader, mut writer),
            (mut far, mut far_reader, mut far_writer),
        ] = pair(&network);
        assert_eq!(near.remote_address(), Ok(at("127.0.0.1:80")));
        assert_eq!(far.remote_address(), near.local_address());
        assert!(reader.read(10).expect("open").is_empty(), "nothing yet");
        writer
            .write(bytes::Bytes::from_static(b"request"))
            .expect("room");
        near.shutdown(Shutdown::Write).expect("connected");
        assert!(matches!(writer.check_write(), Err(StreamError::Closed)));
        far_reader.ready().await;
        assert_eq!(far_reader.read(100).expect("data"), "request");
        assert!(matches!(far_reader.read(100), Err(StreamError::Closed)));
        far_writer
            .write(bytes::Bytes::from_static(b"answer"))
            .expect("room");
        far.shutdown(Shutdown::Both).expect("connected");
        assert_eq!(reader.read(3).expect("data"), "ans");
        assert_eq!(reader.read(3).expect("data"), "wer");
        assert!(matches!(reader.read(3), Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn a_reader_that_is_behind_holds_back_its_writer() {
        let network = network();
        let [
            (_near, _reader, mut writer),
            (_far, mut far_reader, _far_writer),
        ] = pair(&network);
        let mut sent = 0;
        loop {
            let room = writer.check_write().expect("open");
            if room == 0 {
                break;
            }
            writer
                .write(vec![0; room].into())
                .expect("as much as was allowed");
            sent += room;
        }
        let mut read = 0;
        while read < sent {
            read += far_reader.read(usize::MAX).expect("data").len();
        }
        writer.ready().await;
        assert!(writer.check_write().expect("open") > 0);
    }
}
