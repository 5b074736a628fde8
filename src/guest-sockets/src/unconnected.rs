//! What comes before a socket: the network handle, the making of sockets, and errors.

use std::io;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, tcp_create_socket, udp_create_socket,
};
use wasmtime_wasi::p2::{
    SocketError, SocketResult, TcpSocket as TcpHandle, UdpSocket as UdpHandle,
};

use super::tcp_socket::TcpSocket;
use super::udp_socket::UdpSocket;
use super::{View, guest, host};

/// Behind `wasi:sockets/network.network`. A pod has one network, so there is nothing to tell apart.
pub(super) struct TheNetwork;

impl instance_network::Host for View<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(guest(&self.table.push(TheNetwork)?))
    }
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error.downcast_ref::<io::Error>().map(ErrorCode::from))
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(host::<TheNetwork, _>(&network))?;
        Ok(())
    }
}

impl tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpHandle>> {
        let socket = self.table.push(TcpSocket::new(family));
        // A full table is the guest's limit of sockets, not its death.
        socket
            .map(|socket| guest(&socket))
            .map_err(|_| ErrorCode::NewSocketLimit.into())
    }
}

impl udp_create_socket::Host for View<'_> {
    async fn create_udp_socket(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpHandle>> {
        let socket = self.table.push(UdpSocket::new(family));
        socket
            .map(|socket| guest(&socket))
            .map_err(|_| ErrorCode::NewSocketLimit.into())
    }
}
