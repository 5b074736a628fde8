//! TCP.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use vaquita_net::{Listener, Stream};
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, Resource, Source, StreamConsumer, StreamProducer,
    StreamReader, StreamResult,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily as OldFamily;
use wasmtime_wasi::p3::bindings::sockets::types::{
    Duration, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, IpAddressFamily, IpSocketAddress,
    TcpSocket as Handle,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::super::options::{Options, at_least_one};
use super::super::tcp_socket::TcpSocket;
use super::super::{Sockets, View};
use super::{error, family, old_family};
use crate::handle::{guest, host};

/// The most that is read at once.
const PIECE: usize = 64 << 10;

/// Behind `tcp-socket`.
struct Socket {
    tcp: TcpSocket,
    /// Whether its two streams were taken, which can be done once.
    is_sending: bool,
    is_receiving: bool,
}

type Told = oneshot::Sender<Result<(), ErrorCode>>;

impl Socket {
    fn new(tcp: TcpSocket) -> Self {
        Self {
            tcp,
            is_sending: false,
            is_receiving: false,
        }
    }

    /// The stream, for one of its directions, which is free until then.
    fn take(&mut self, which: fn(&mut Self) -> &mut bool) -> Result<Arc<Stream>, ErrorCode> {
        let stream = self.tcp.stream().ok_or(ErrorCode::InvalidState)?;
        if std::mem::replace(which(self), true) {
            return Err(ErrorCode::InvalidState);
        }
        Ok(stream)
    }
}

impl View<'_> {
    fn async_socket(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut Socket> {
        self.table.get_mut(&host(handle)).map_err(SocketError::trap)
    }

    fn async_options(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut Options> {
        Ok(&mut self.async_socket(handle)?.tcp.options)
    }
}

/// Gives the connections that a listener accepts.
struct Accepting<T> {
    listener: Arc<Listener>,
    family: OldFamily,
    options: Options,
    view: for<'a> fn(&'a mut T) -> View<'a>,
}

impl<T: 'static> StreamProducer<T> for Accepting<T> {
    type Item = Resource<Handle>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // With no room, only readiness is asked for.
        if destination.remaining(&mut store) == Some(0) {
            return waited(self.listener.poll_accept_ready(context), finish, |()| {
                StreamResult::Completed
            });
        }
        match self.listener.poll_accept(context) {
            Poll::Pending => waited(Poll::Pending, finish, |()| StreamResult::Cancelled),
            // The pod's network is closed.
            Poll::Ready(Err(_)) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Ready(Ok((stream, _peer))) => {
                let socket = TcpSocket::accepted(self.family, self.options.clone(), stream);
                let view = (self.view)(store.data_mut());
                socket.charge_to(view.payer);
                let kept = view.table.push(Socket::new(socket))?;
                destination.set_buffer(Some(guest(&kept)));
                Poll::Ready(Ok(StreamResult::Completed))
            }
        }
    }
}

/// What comes of a wait that the guest may have given up.
fn waited<R>(
    ready: Poll<R>,
    finish: bool,
    done: impl FnOnce(R) -> StreamResult,
) -> Poll<wasmtime::Result<StreamResult>> {
    match ready {
        Poll::Ready(result) => Poll::Ready(Ok(done(result))),
        Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
        Poll::Pending => Poll::Pending,
    }
}

/// One direction of a connection, until it ends, and who is told how it did.
struct Direction {
    stream: Arc<Stream>,
    how: Shutdown,
    told: Option<Told>,
}

impl Direction {
    fn new(stream: Arc<Stream>, how: Shutdown, told: Told) -> Self {
        let told = Some(told);
        Self { stream, how, told }
    }

    fn end(&mut self, result: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(told) = self.told.take() {
            // If it fails, the connection is gone, which the peer knows.
            let _ = self.stream.shutdown(self.how);
            let _ = told.send(result);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

struct Receiving(Direction);

impl<T> StreamProducer<T> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut self.0;
        if this.told.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let asks_only = destination.remaining(store.as_context_mut()) == Some(0);
        let ready = this.stream.poll_read_ready(context);
        if asks_only || ready.is_pending() {
            return waited(ready, finish, |()| StreamResult::Completed);
        }
        let mut destination = destination.as_direct(store, PIECE);
        match this.stream.try_read_into(destination.remaining()) {
            Ok(0) => this.end(Ok(())),
            Ok(read) => {
                destination.mark_written(read);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It was not ready after all: again, which has the waker registered.
                context.waker().wake_by_ref();
                waited(Poll::Pending, finish, |()| StreamResult::Cancelled)
            }
            Err(error) => this.end(Err(error.into())),
        }
    }
}

struct Sending(Direction);

impl<T> StreamConsumer<T> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<T>,
        source: Source<Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut self.0;
        if this.told.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let mut source = source.as_direct(store);
        let ready = this.stream.poll_write_ready(context);
        if source.remaining().is_empty() || ready.is_pending() {
            return waited(ready, finish, |()| StreamResult::Completed);
        }
        match this.stream.try_write_from(source.remaining()) {
            Ok(written) => {
                source.mark_read(written);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                context.waker().wake_by_ref();
                waited(Poll::Pending, finish, |()| StreamResult::Cancelled)
            }
            Err(error) => this.end(Err(error.into())),
        }
    }
}

impl<T: Send + 'static> HostTcpSocketWithStore<T> for Sockets {
    async fn connect(
        store: &Accessor<T, Self>,
        socket: Resource<Handle>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        store.with(|mut store| {
            let mut view = store.get();
            let (network, to) = (view.network, SocketAddr::from(remote_address));
            if !view.grants.may_connect(true, to) {
                return Err(ErrorCode::AccessDenied.into());
            }
            let socket = &mut view.async_socket(&socket)?.tcp;
            socket.start_connect(network, to).map_err(error)
        })?;
        poll_fn(|context| {
            store.with(|mut store| {
                let mut view = store.get();
                let payer = view.payer;
                let socket = match view.async_socket(&socket) {
                    Ok(socket) => &mut socket.tcp,
                    Err(error) => return Poll::Ready(Err(error)),
                };
                socket
                    .poll_connect(context)
                    .map(|()| socket.finish_connect().map_err(error))
                    .map_ok(|_streams| socket.charge_to(payer))
            })
        })
        .await
    }

    async fn listen(
        mut store: Access<'_, T, Self>,
        socket: Resource<Handle>,
    ) -> SocketResult<StreamReader<Resource<Handle>>> {
        let view = store.getter();
        let mut host = store.get();
        let network = host.network;
        let socket = &mut host.async_socket(&socket)?.tcp;
        if socket.is_unbound() {
            let any = match socket.family {
                OldFamily::Ipv4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                OldFamily::Ipv6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            socket.start_bind(network, any).map_err(error)?;
            socket.finish_bind().map_err(error)?;
        }
        socket.start_listen().map_err(error)?;
        socket.finish_listen().map_err(error)?;
        let listener = socket.listener().ok_or(ErrorCode::InvalidState)?;
        let accepting = Accepting {
            listener,
            family: socket.family,
            options: socket.options.clone(),
            view,
        };
        StreamReader::new(&mut store, accepting).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, T, Self>,
        socket: Resource<Handle>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        let (tell, told) = oneshot::channel();
        let socket = store.get().table.get_mut(&host::<Socket, _>(&socket))?;
        match socket.take(|socket| &mut socket.is_sending) {
            Ok(stream) => {
                let sending = Sending(Direction::new(stream, Shutdown::Write, tell));
                data.pipe(&mut store, sending)?;
            }
            Err(code) => {
                data.close(&mut store)?;
                let _ = tell.send(Err(code));
            }
        }
        FutureReader::new(&mut store, told)
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        socket: Resource<Handle>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let (tell, told) = oneshot::channel();
        let socket = store.get().table.get_mut(&host::<Socket, _>(&socket))?;
        let stream = match socket.take(|socket| &mut socket.is_receiving) {
            Ok(stream) => {
                let receiving = Receiving(Direction::new(stream, Shutdown::Read, tell));
                StreamReader::new(&mut store, receiving)?
            }
            Err(code) => {
                let _ = tell.send(Err(code));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, told)?))
    }
}

impl HostTcpSocket for View<'_> {
    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Handle>> {
        let socket = Socket::new(TcpSocket::new(old_family(family)));
        match self.table.push(socket) {
            Ok(kept) => Ok(guest(&kept)),
            Err(_full) => Err(ErrorCode::OutOfMemory.into()),
        }
    }

    async fn bind(
        &mut self,
        this: Resource<Handle>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let network = self.network;
        let socket = &mut self.async_socket(&this)?.tcp;
        let address = SocketAddr::from(local_address);
        socket.start_bind(network, address).map_err(error)?;
        socket.finish_bind().map_err(error)
    }

    fn get_local_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        let address = self.async_socket(&this)?.tcp.local_address();
        address.map(IpSocketAddress::from).map_err(error)
    }

    fn get_remote_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        let address = self.async_socket(&this)?.tcp.remote_address();
        address.map(IpSocketAddress::from).map_err(error)
    }

    fn get_is_listening(&mut self, this: Resource<Handle>) -> wasmtime::Result<bool> {
        let socket = self.table.get(&host::<Socket, _>(&this))?;
        Ok(socket.tcp.is_listening())
    }

    fn get_address_family(&mut self, this: Resource<Handle>) -> wasmtime::Result<IpAddressFamily> {
        let socket = self.table.get(&host::<Socket, _>(&this))?;
        Ok(family(socket.tcp.family))
    }

    fn set_listen_backlog_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        let socket = &mut self.async_socket(&this)?.tcp;
        socket.set_backlog(value).map_err(error)
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<Handle>) -> SocketResult<bool> {
        Ok(self.async_options(&this)?.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<Handle>, value: bool) -> SocketResult<()> {
        self.async_options(&this)?.keep_alive = value;
        Ok(())
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<Handle>) -> SocketResult<Duration> {
        Ok(self.async_options(&this)?.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(
        &mut self,
        this: Resource<Handle>,
        value: Duration,
    ) -> SocketResult<()> {
        self.async_options(&this)?.keep_alive_idle = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_keep_alive_interval(&mut self, this: Resource<Handle>) -> SocketResult<Duration> {
        Ok(self.async_options(&this)?.keep_alive_interval)
    }

    fn set_keep_alive_interval(
        &mut self,
        this: Resource<Handle>,
        value: Duration,
    ) -> SocketResult<()> {
        self.async_options(&this)?.keep_alive_interval = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_keep_alive_count(&mut self, this: Resource<Handle>) -> SocketResult<u32> {
        Ok(self.async_options(&this)?.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, this: Resource<Handle>, value: u32) -> SocketResult<()> {
        self.async_options(&this)?.keep_alive_count = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_hop_limit(&mut self, this: Resource<Handle>) -> SocketResult<u8> {
        Ok(self.async_options(&this)?.hop_limit)
    }

    fn set_hop_limit(&mut self, this: Resource<Handle>, value: u8) -> SocketResult<()> {
        self.async_options(&this)?.hop_limit = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_receive_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.async_options(&this)?.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.async_options(&this)?.receive_buffer = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_send_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.async_options(&this)?.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.async_options(&this)?.send_buffer = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn drop(&mut self, this: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<Socket, _>(&this))?;
        Ok(())
    }
}
