//! `wasi:sockets/udp@0.2`: datagrams of the pod's network, which never wait.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use vaquita_net::UdpSocket as Mailbox;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    Host, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::{
    DynPollable, Pollable, SocketError, SocketResult, UdpSocket as Handle, subscribe,
};

use super::options::{Options, at_least_one};
use super::unconnected::TheNetwork;
use super::{Grants, View, address, code_of, guest, host};

/// The most datagrams that are taken or given at once.
const MOST_DATAGRAMS: usize = 16;

/// The most bytes that are taken at once, but for the last datagram.
const MOST_BYTES: usize = 64 << 10;

/// Behind `udp-socket`.
pub(super) struct UdpSocket {
    family: IpAddressFamily,
    options: Options,
    state: State,
}

enum State {
    Unbound,
    BindStarted(Arc<Mailbox>),
    Bound(Arc<Mailbox>),
}

impl UdpSocket {
    pub(super) fn new(family: IpAddressFamily) -> Self {
        Self {
            family,
            options: Options::default(),
            state: State::Unbound,
        }
    }

    fn bound(&self) -> Result<&Arc<Mailbox>, ErrorCode> {
        match &self.state {
            State::Bound(mailbox) => Ok(mailbox),
            State::Unbound | State::BindStarted(_) => Err(ErrorCode::InvalidState),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for UdpSocket {
    async fn ready(&mut self) {
        // No operation on the socket itself takes time.
    }
}

/// Behind `incoming-datagram-stream`.
struct Incoming(Arc<Mailbox>);

#[async_trait::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        poll_fn(|context| self.0.poll_recv_ready(context)).await;
    }
}

/// Behind `outgoing-datagram-stream`.
struct Outgoing {
    family: IpAddressFamily,
    mailbox: Arc<Mailbox>,
    /// How many datagrams the guest may send, as it asked before.
    permitted: usize,
}

impl Outgoing {
    fn send(&self, datagram: OutgoingDatagram, grants: &dyn Grants) -> Result<(), ErrorCode> {
        let to = datagram.remote_address.map(SocketAddr::from);
        let to = match (to, self.mailbox.peer_addr()) {
            (None, Some(peer)) => peer,
            (Some(to), None) => to,
            (Some(to), Some(peer)) if to == peer => peer,
            (None, None) | (Some(_), Some(_)) => return Err(ErrorCode::InvalidArgument),
        };
        address::check_remote(self.family, to)?;
        if !grants.may_connect(false, to) {
            return Err(ErrorCode::AccessDenied);
        }
        self.mailbox
            .send_to(datagram.data.into(), to)
            .map_err(code_of)
    }
}

#[async_trait::async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {
        // Sending never waits: what there is no room for is lost.
    }
}

impl View<'_> {
    fn udp(&mut self, handle: &Resource<Handle>) -> SocketResult<&mut UdpSocket> {
        Ok(self.table.get_mut(&host(handle))?)
    }

    fn outgoing(
        &mut self,
        handle: &Resource<OutgoingDatagramStream>,
    ) -> SocketResult<&mut Outgoing> {
        Ok(self.table.get_mut(&host(handle))?)
    }
}

impl Host for View<'_> {}

impl HostUdpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<Handle>,
        network: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&host::<TheNetwork, _>(&network))?;
        let (network, payer) = (self.network, self.payer);
        let socket = self.udp(&this)?;
        match socket.state {
            State::Unbound => {}
            State::BindStarted(_) => return Err(ErrorCode::ConcurrencyConflict.into()),
            State::Bound(_) => return Err(ErrorCode::InvalidState.into()),
        }
        let address = SocketAddr::from(address);
        address::check_local(socket.family, address)?;
        let mailbox = network.bind_udp(address).map_err(code_of)?;
        mailbox.charge_to(Arc::clone(payer));
        socket.state = State::BindStarted(Arc::new(mailbox));
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<Handle>) -> SocketResult<()> {
        let socket = self.udp(&this)?;
        let State::BindStarted(mailbox) = &socket.state else {
            return Err(ErrorCode::NotInProgress.into());
        };
        socket.state = State::Bound(Arc::clone(mailbox));
        Ok(())
    }

    async fn stream(
        &mut self,
        this: Resource<Handle>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<(
        Resource<IncomingDatagramStream>,
        Resource<OutgoingDatagramStream>,
    )> {
        let kept = host::<UdpSocket, _>(&this);
        if self
            .table
            .iter_children(&kept)?
            .any(|child| child.is::<Incoming>() || child.is::<Outgoing>())
        {
            let message = "a socket's streams must be dropped before it is given others";
            return Err(SocketError::trap(wasmtime::Error::msg(message)));
        }
        let grants = self.grants;
        let may = |to| grants.may_connect(false, to);
        let socket = self.udp(&this)?;
        let family = socket.family;
        let mailbox = Arc::clone(socket.bound()?);
        let peer = remote_address.map(SocketAddr::from);
        if let Some(peer) = peer {
            if !may(peer) {
                return Err(ErrorCode::AccessDenied.into());
            }
            address::check_remote(family, peer)?;
        }
        mailbox.connect(peer);
        let incoming = self
            .table
            .push_child(Incoming(Arc::clone(&mailbox)), &kept)?;
        let outgoing = Outgoing {
            family,
            mailbox,
            permitted: 0,
        };
        let outgoing = self.table.push_child(outgoing, &kept)?;
        Ok((guest(&incoming), guest(&outgoing)))
    }

    fn local_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        match &self.udp(&this)?.state {
            State::Unbound => Err(ErrorCode::InvalidState.into()),
            State::BindStarted(mailbox) | State::Bound(mailbox) => Ok(mailbox.local_addr().into()),
        }
    }

    fn remote_address(&mut self, this: Resource<Handle>) -> SocketResult<IpSocketAddress> {
        let peer = self.udp(&this)?.bound()?.peer_addr();
        Ok(peer.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<Handle>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get::<UdpSocket>(&host(&this))?.family)
    }

    fn unicast_hop_limit(&mut self, this: Resource<Handle>) -> SocketResult<u8> {
        Ok(self.udp(&this)?.options.hop_limit)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<Handle>, value: u8) -> SocketResult<()> {
        self.udp(&this)?.options.hop_limit = at_least_one(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.udp(&this)?.options.receive_buffer = at_least_one(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, this: Resource<Handle>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, this: Resource<Handle>, value: u64) -> SocketResult<()> {
        self.udp(&this)?.options.send_buffer = at_least_one(value)?;
        Ok(())
    }

    fn subscribe(&mut self, this: Resource<Handle>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host::<UdpSocket, _>(&this))
    }

    fn drop(&mut self, this: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<UdpSocket, _>(&this))?;
        Ok(())
    }
}

impl HostIncomingDatagramStream for View<'_> {
    fn receive(
        &mut self,
        this: Resource<IncomingDatagramStream>,
        max_results: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let most = usize::try_from(max_results)
            .unwrap_or(usize::MAX)
            .min(MOST_DATAGRAMS);
        let incoming: &Incoming = self.table.get(&host(&this))?;
        let mut datagrams = Vec::new();
        let mut bytes = 0;
        while datagrams.len() < most && bytes < MOST_BYTES {
            match incoming.0.try_recv_from() {
                Ok(Some(datagram)) => {
                    bytes += datagram.data.len();
                    datagrams.push(IncomingDatagram {
                        data: datagram.data.into(),
                        remote_address: datagram.from.into(),
                    });
                }
                Ok(None) => break,
                // There is something to give; the next call finds the error again.
                Err(_) if !datagrams.is_empty() => break,
                Err(error) => return Err(code_of(error).into()),
            }
        }
        Ok(datagrams)
    }

    fn subscribe(
        &mut self,
        this: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host::<Incoming, _>(&this))
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(host::<Incoming, _>(&this))?;
        Ok(())
    }
}

impl HostOutgoingDatagramStream for View<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        self.outgoing(&this)?.permitted = MOST_DATAGRAMS;
        Ok(MOST_DATAGRAMS as u64)
    }

    fn send(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
        datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let grants = self.grants;
        let outgoing = self.outgoing(&this)?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        if datagrams.len() > outgoing.permitted {
            let message = "more datagrams than check-send allowed";
            return Err(SocketError::trap(wasmtime::Error::msg(message)));
        }
        outgoing.permitted = 0;
        let mut count = 0;
        for datagram in datagrams {
            match outgoing.send(datagram, grants) {
                Ok(()) => count += 1,
                // Those that went out count; the next call finds the error again.
                Err(_) if count > 0 => break,
                Err(code) => return Err(code.into()),
            }
        }
        Ok(count)
    }

    fn subscribe(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, host::<Outgoing, _>(&this))
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(host::<Outgoing, _>(&this))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_net::{Fabric, FabricConfig, Payer, PodNetwork};
    use wasmtime::component::ResourceTable;
    use wasmtime_wasi::p2::bindings::sockets::instance_network::Host as _;
    use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;

    /// Grants and pays for everything.
    #[derive(Debug)]
    struct All;

    impl Grants for All {
        fn may_look_up(&self, _name: &str) -> bool {
            true
        }

        fn may_connect(&self, _is_tcp: bool, _to: SocketAddr) -> bool {
            true
        }
    }

    impl Payer for All {
        fn take(&self, _bytes: usize) -> bool {
            true
        }

        fn give_back(&self, _bytes: usize) {}
    }

    /// A guest without a guest: its resources, its network, and a handle on it.
    struct Instance {
        table: ResourceTable,
        network: PodNetwork,
        payer: Arc<dyn Payer>,
        grants: All,
    }

    impl Instance {
        fn new(fabric: &Fabric) -> Self {
            Self {
                table: ResourceTable::new(),
                network: fabric.attach(None).expect("an address"),
                payer: Arc::new(All),
                grants: All,
            }
        }

        fn view(&mut self) -> View<'_> {
            View {
                table: &mut self.table,
                network: &self.network,
                payer: &self.payer,
                grants: &self.grants,
            }
        }

        /// A socket, bound to that port of all addresses, and the way to have it again.
        async fn socket(&mut self, port: u16) -> impl Fn() -> Resource<Handle> + use<> {
            let mut view = self.view();
            let network = view.instance_network().expect("a network").rep();
            let socket = view
                .create_udp_socket(IpAddressFamily::Ipv4)
                .await
                .expect("a socket")
                .rep();
            let address = SocketAddr::from(([0, 0, 0, 0], port));
            let (this, network) = (Resource::new_borrow(socket), Resource::new_borrow(network));
            view.start_bind(this, network, address.into())
                .await
                .expect("started");
            view.finish_bind(Resource::new_borrow(socket))
                .expect("bound");
            move || Resource::new_borrow(socket)
        }
    }

    fn datagram(data: &[u8], to: Option<SocketAddr>) -> OutgoingDatagram {
        OutgoingDatagram {
            data: data.into(),
            remote_address: to.map(Into::into),
        }
    }

    fn code(error: SocketError) -> ErrorCode {
        error.downcast().expect("no trap")
    }

    #[tokio::test]
    async fn datagrams_go_to_whom_they_are_addressed() {
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let (mut one, mut other) = (Instance::new(&fabric), Instance::new(&fabric));
        let (near, far) = (one.socket(1000).await, other.socket(2000).await);
        let target = SocketAddr::new(other.network.ip(), 2000);

        let mut view = one.view();
        let (_, out) = view.stream(near(), None).await.expect("streams");
        let out = || Resource::new_borrow(out.rep());
        assert!(view.check_send(out()).expect("open") >= 2);
        let sent = view.send(
            out(),
            vec![datagram(b"one", Some(target)), datagram(b"", Some(target))],
        );
        assert_eq!(sent.expect("open"), 2);
        assert_eq!(view.check_send(out()).map(drop).ok(), Some(()));
        let lost = view.send(out(), vec![datagram(b"to nobody", None)]);
        assert_eq!(
            code(lost.expect_err("no address")),
            ErrorCode::InvalidArgument
        );

        let mut view = other.view();
        let (incoming, _) = view.stream(far(), None).await.expect("streams");
        let incoming = || Resource::new_borrow(incoming.rep());
        let got = view.receive(incoming(), 10).expect("open");
        let texts: Vec<_> = got.iter().map(|datagram| &datagram.data[..]).collect();
        assert_eq!(texts, [&b"one"[..], b""]);
        let from = SocketAddr::from(got[0].remote_address);
        assert_eq!(from, SocketAddr::new(one.network.ip(), 1000));
        assert!(view.receive(incoming(), 10).expect("open").is_empty());
    }

    #[tokio::test]
    async fn a_connected_socket_has_one_peer() {
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let mut pod = Instance::new(&fabric);
        let (client, server) = (pod.socket(1000).await, pod.socket(2000).await);
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut view = pod.view();
        let unconnected = view.remote_address(client()).expect_err("nobody yet");
        assert_eq!(code(unconnected), ErrorCode::InvalidState);
        let (_, out) = view
            .stream(client(), Some(to(2000).into()))
            .await
            .expect("streams");
        let out = || Resource::new_borrow(out.rep());
        assert_eq!(
            SocketAddr::from(view.remote_address(client()).expect("connected")),
            to(2000)
        );
        for (target, expected) in [
            (None, Ok(1)),
            (Some(to(2000)), Ok(1)),
            (Some(to(3000)), Err(())),
        ] {
            view.check_send(out()).expect("open");
            assert_eq!(
                view.send(out(), vec![datagram(b"x", target)]).map_err(drop),
                expected
            );
        }
        let (incoming, _) = view.stream(server(), None).await.expect("streams");
        assert_eq!(
            view.receive(Resource::new_borrow(incoming.rep()), 10)
                .expect("open")
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn what_breaks_the_interfaces_rules_is_a_trap() {
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let mut pod = Instance::new(&fabric);
        let socket = pod.socket(1000).await;
        let mut view = pod.view();
        let (_, out) = view.stream(socket(), None).await.expect("streams");
        let unasked = view.send(Resource::new_borrow(out.rep()), vec![datagram(b"x", None)]);
        assert!(unasked.expect_err("not permitted").downcast().is_err());
        let again = view.stream(socket(), None).await;
        assert!(again.expect_err("two at once").downcast().is_err());
    }
}
