//! UDP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use vaquita_net::{Payer, PodNetwork, UdpSocket as Mailbox};
use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as OldCode, IpAddressFamily as OldFamily,
};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress,
    UdpSocket as Handle,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::super::options::{Options, at_least_one};
use super::super::{Sockets, View, address, code_of};
use super::{error, family, old_family};
use crate::handle::{guest, host};

/// A pod's network, and who pays for what is sent to it.
type Paying<'a> = (&'a PodNetwork, &'a Arc<dyn Payer>);

/// Behind `udp-socket`.
struct Socket {
    family: OldFamily,
    options: Options,
    /// Once it is bound.
    mailbox: Option<Arc<Mailbox>>,
}

impl Socket {
    fn bind(
        &mut self,
        (network, payer): Paying<'_>,
        to: SocketAddr,
    ) -> Result<&Arc<Mailbox>, OldCode> {
        if self.mailbox.is_some() {
            return Err(OldCode::InvalidState);
        }
        address::check_local(self.family, to)?;
        let mailbox = network.bind_udp(to).map_err(code_of)?;
        mailbox.charge_to(Arc::clone(payer));
        Ok(self.mailbox.insert(Arc::new(mailbox)))
    }

    /// Sockets that are not bound get any port when they need one.
    fn bound(&mut self, network: Paying<'_>) -> Result<&Arc<Mailbox>, OldCode> {
        if self.mailbox.is_none() {
            let any = match self.family {
                OldFamily::Ipv4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                OldFamily::Ipv6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            self.bind(network, any)?;
        }
        self.mailbox.as_ref().ok_or(OldCode::InvalidState)
    }

    fn send(
        &mut self,
        network: Paying<'_>,
        data: Vec<u8>,
        to: Option<SocketAddr>,
    ) -> Result<(), OldCode> {
        let family = self.family;
        let mailbox = self.bound(network)?;
        let to = match (to, mailbox.peer_addr()) {
            (None, Some(peer)) => peer,
            (Some(to), None) => to,
            (Some(to), Some(peer)) if to == peer => peer,
            (None, None) | (Some(_), Some(_)) => return Err(OldCode::InvalidArgument),
        };
        address::check_remote(family, to)?;
        mailbox.send_to(data.into(), to).map_err(code_of)
    }
}

impl View<'_> {
    fn async_udp(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut Socket> {
        self.table.get_mut(&host(handle)).map_err(SocketError::trap)
    }
}

impl<T> HostUdpSocketWithStore<T> for Sockets {
    async fn send(
        store: &Accessor<T, Self>,
        socket: Resource<Handle>,
        data: Vec<u8>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        store.with(|mut store| {
            let mut view = store.get();
            let network = (view.network, view.payer);
            let to = remote_address.map(SocketAddr::from);
            if to.is_some_and(|to| !view.grants.may_connect(false, to)) {
                return Err(ErrorCode::AccessDenied.into());
            }
            let socket = view.async_udp(&socket)?;
            socket.send(network, data, to).map_err(error)
        })
    }

    async fn receive(
        store: &Accessor<T, Self>,
        socket: Resource<Handle>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let mailbox = store.with(|mut store| {
            let mut view = store.get();
            let mailbox = view.async_udp(&socket)?.mailbox.clone();
            mailbox.ok_or(SocketError::from(ErrorCode::InvalidState))
        })?;
        let datagram = mailbox.recv_from().await;
        let datagram = datagram.map_err(|failed| error(code_of(failed)))?;
        Ok((datagram.data.into(), datagram.from.into()))
    }
}

impl HostUdpSocket for View<'_> {
    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Handle>> {
        let socket = Socket {
            family: old_family(family),
            options: Options::default(),
            mailbox: None,
        };
        match self.table.push(socket) {
            Ok(kept) => Ok(guest(&kept)),
            Err(_full) => Err(ErrorCode::OutOfMemory.into()),
        }
    }

    async fn bind(&mut self, this: Resource<Handle>, local: IpSocketAddress) -> SocketResult<()> {
        let network = (self.network, self.payer);
        let socket = self.async_udp(&this)?;
        let bound = socket.bind(network, SocketAddr::from(local));
        bound.map(|_| ()).map_err(error)
    }

    async fn connect(
        &mut self,
        this: Resource<Handle>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let to = SocketAddr::from(remote);
        if !self.grants.may_connect(false, to) {
            return Err(ErrorCode::AccessDenied.into());
        }
        let network = (self.network, self.payer);
        let socket = self.async_udp(&this)?;
        address::check_remote(socket.family, to).map_err(error)?;
        socket.bound(network).map_err(error)?.connect(Some(to));
        Ok(())
    }

    fn disconnect(&mut self, this: Resource<Handle>) -> SocketResult<()> {
        match &self.async_udp(&this)?.mailbox {
            Some(mailbox) if mailbox.peer_addr().is_some() => mailbox.connect(None),
            _ => return Err(ErrorCode::InvalidState.into()),
        }
        Ok(())
    }

    fn get_local_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        let mailbox = self.async_udp(&this)?.mailbox.as_ref();
        let address = mailbox.map(|mailbox| mailbox.local_addr().into());
        address.ok_or(ErrorCode::InvalidState.into())
    }

    fn get_remote_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        let mailbox = self.async_udp(&this)?.mailbox.as_ref();
        let address = mailbox.and_then(|mailbox| mailbox.peer_addr());
        address
            .map(IpSocketAddress::from)
            .ok_or(ErrorCode::InvalidState.into())
    }

    fn get_address_family(&mut self, this: Resource<Handle>) -> wasmtime::Result<IpAddressFamily> {
        Ok(family(self.table.get(&host::<Socket, _>(&this))?.family))
    }

    fn get_unicast_hop_limit(&mut self, this: Resource<Handle>) -> SocketResult<u8> {
        Ok(self.async_udp(&this)?.options.hop_limit)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<Handle>, value: u8) -> SocketResult<()> {
        self.async_udp(&this)?.options.hop_limit = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_receive_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.async_udp(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.async_udp(&this)?.options.receive_buffer = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn get_send_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.async_udp(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.async_udp(&this)?.options.send_buffer = at_least_one(value).map_err(error)?;
        Ok(())
    }

    fn drop(&mut self, this: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<Socket, _>(&this))?;
        Ok(())
    }
}
