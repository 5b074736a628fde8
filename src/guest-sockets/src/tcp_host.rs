//! The functions of `wasi:sockets/tcp@0.2`.

use std::net::SocketAddr;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{Host, HostTcpSocket, ShutdownType};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, SocketResult, TcpSocket as Handle, subscribe,
};

use super::options::{Options, at_least_one};
use super::stream::{Reader, Writer};
use super::tcp_socket::TcpSocket;
use super::unconnected::TheNetwork;
use super::{View, guest, host};

type Connected<T> = (T, Resource<DynInputStream>, Resource<DynOutputStream>);

impl View<'_> {
    fn socket(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut TcpSocket> {
        Ok(self.table.get_mut(&host(handle))?)
    }

    fn options(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut Options> {
        Ok(&mut self.socket(handle)?.options)
    }

    fn streams<T>(
        &mut self,
        parent: &Resource<TcpSocket>,
        reader: Reader,
        writer: Writer,
    ) -> SocketResult<Connected<Resource<T>>>
    where
        T: 'static,
    {
        self.table.get(parent)?.charge_to(self.payer);
        let input: DynInputStream = Box::new(reader);
        let output: DynOutputStream = Box::new(writer);
        let input = self.table.push_child(input, parent)?;
        let output = self.table.push_child(output, parent)?;
        Ok((guest(parent), input, output))
    }
}

impl Host for View<'_> {}

impl HostTcpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<Handle>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&host::<TheNetwork, _>(&network))?;
        let network = self.network;
        Ok(self
            .socket(&this)?
            .start_bind(network, SocketAddr::from(address))?)
    }

    fn finish_bind(&mut self, this: Resource<Handle>) -> SocketResult<()> {
        Ok(self.socket(&this)?.finish_bind()?)
    }

    fn start_connect(
        &mut self,
        this: Resource<Handle>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&host::<TheNetwork, _>(&network))?;
        let (network, to) = (self.network, SocketAddr::from(address));
        if !self.grants.may_connect(true, to) {
            return Err(ErrorCode::AccessDenied.into());
        }
        Ok(self.socket(&this)?.start_connect(network, to)?)
    }

    fn finish_connect(
        &mut self,
        this: Resource<Handle>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let (reader, writer) = self.socket(&this)?.finish_connect()?;
        let (_, input, output) = self.streams::<Handle>(&host(&this), reader, writer)?;
        Ok((input, output))
    }

    async fn start_listen(&mut self, this: Resource<Handle>) -> SocketResult<()> {
        Ok(self.socket(&this)?.start_listen()?)
    }

    fn finish_listen(&mut self, this: Resource<Handle>) -> SocketResult<()> {
        Ok(self.socket(&this)?.finish_listen()?)
    }

    fn accept(&mut self, this: Resource<Handle>) -> SocketResult<Connected<Resource<Handle>>> {
        let (socket, reader, writer) = self.socket(&this)?.accept()?;
        let socket = self
            .table
            .push(socket)
            .map_err(|_| ErrorCode::NewSocketLimit)?;
        self.streams(&socket, reader, writer)
    }

    fn local_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        Ok(self.socket(&this)?.local_address()?.into())
    }

    fn remote_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        Ok(self.socket(&this)?.remote_address()?.into())
    }

    fn is_listening(&mut self, this: Resource<Handle>) -> wasmtime::Result<bool> {
        Ok(self.table.get::<TcpSocket>(&host(&this))?.is_listening())
    }

    fn address_family(&mut self, this: Resource<Handle>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get::<TcpSocket>(&host(&this))?.family)
    }

    fn set_listen_backlog_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        Ok(self.socket(&this)?.set_backlog(value)?)
    }

    fn keep_alive_enabled(&mut self, this: Resource<Handle>) -> SocketResult<bool> {
        Ok(self.options(&this)?.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<Handle>, value: bool) -> SocketResult<()> {
        self.options(&this)?.keep_alive = value;
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.options(&this)?.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.options(&this)?.keep_alive_idle = at_least_one(value)?;
        Ok(())
    }

    fn keep_alive_interval(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.options(&this)?.keep_alive_interval)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.options(&this)?.keep_alive_interval = at_least_one(value)?;
        Ok(())
    }

    fn keep_alive_count(&mut self, this: Resource<Handle>) -> SocketResult<u32> {
        Ok(self.options(&this)?.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, this: Resource<Handle>, value: u32) -> SocketResult<()> {
        self.options(&this)?.keep_alive_count = at_least_one(value)?;
        Ok(())
    }

    fn hop_limit(&mut self, this: Resource<Handle>) -> SocketResult<u8> {
        Ok(self.options(&this)?.hop_limit)
    }

    fn set_hop_limit(&mut self, this: Resource<Handle>, value: u8) -> SocketResult<()> {
        self.options(&this)?.hop_limit = at_least_one(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.options(&this)?.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.options(&this)?.receive_buffer = at_least_one(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.options(&this)?.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.options(&this)?.send_buffer = at_least_one(value)?;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<Handle>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host::<TcpSocket, _>(&this))
    }

    fn shutdown(&mut self, this: Resource<Handle>, kind: ShutdownType) -> SocketResult<()> {
        Ok(self.socket(&this)?.shutdown(kind.into())?)
    }

    fn drop(&mut self, this: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<TcpSocket, _>(&this))?;
        Ok(())
    }
}
