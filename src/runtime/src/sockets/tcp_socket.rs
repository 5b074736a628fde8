//! A TCP socket's life, as `wasi:sockets/tcp@0.2` defines it.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use vaquita_net::{BoundPort, Listener, NetError, PodNetwork, Stream};
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

use super::code_of;
use super::options::Options;
use super::stream::{Reader, Sending, Writer};

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
    Listening(Listener),
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
        if !self.is_of_family(address.ip()) || !is_unicast(address.ip()) {
            return Err(ErrorCode::InvalidArgument);
        }
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
                self.state = State::Listening(listener);
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
        let nowhere = to.ip().to_canonical().is_unspecified() || to.port() == 0;
        if nowhere || !self.is_of_family(to.ip()) || !is_unicast(to.ip()) {
            return Err(ErrorCode::InvalidArgument);
        }
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
    fn poll_connect(&mut self, context: &mut Context<'_>) -> Poll<()> {
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
            State::ListenStarted(listener) | State::Listening(listener) => {
                Ok(listener.local_addr())
            }
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

    pub(super) fn may_set_backlog(&self) -> bool {
        matches!(
            self.state,
            State::Unbound | State::BindStarted(_) | State::Bound(_)
        )
    }

    /// Addresses of the other family that are written in this one's form don't count.
    fn is_of_family(&self, ip: IpAddr) -> bool {
        match (self.family, ip) {
            (IpAddressFamily::Ipv4, IpAddr::V4(_)) => true,
            (IpAddressFamily::Ipv6, IpAddr::V6(ip)) => {
                ip.to_ipv4_mapped().is_none() && !is_compatible(ip)
            }
            _ => false,
        }
    }
}

/// The retired way to write an IPv4 address as an IPv6 one.
fn is_compatible(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [0, 0, 0, 0, 0, 0, _, _]) && !ip.is_unspecified() && !ip.is_loopback()
}

fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_multicast() && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
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
