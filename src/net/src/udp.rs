//! Datagrams between pods.
//!
//! Each socket has a mailbox; who sends puts the datagram straight into it. A full mailbox loses what comes, as a
//! network does, so sending never waits.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    future::poll_fn,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    FabricConfig, NetError, Origin, Protocol,
    fabric::Inner,
    host_datagrams::{self, Back},
    host_pod::HostDatagrams,
    outward::Outward,
    payer::Payer,
    pipe::Account,
    pod::{Pod, PortHold, canonical, like},
    service::{Balancer, Found},
    sync::{WakerSet, lock},
};

/// Longest datagram: what IPv4 leaves to UDP.
const MAX_DATAGRAM: usize = 65_507;
/// Datagrams below this are copied, so that a short slice does not hold on to a large buffer.
const SMALL: usize = 512;
/// Senders that one socket remembers, while there is a policy.
const MAX_CORRESPONDENTS: usize = 1024;
/// Services that one socket talks to at a time without starting over with another endpoint.
const MAX_FLOWS: usize = 64;

/// A datagram that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What it says; may be empty.
    pub data: Bytes,
    /// Who sent it. If it answers what was sent to a Service, the Service.
    pub from: SocketAddr,
}

/// A UDP socket of a pod. Dropping it frees its port; it does not keep the pod's network open.
///
/// It reaches pods and Services of the fabric, answers clients outside and reaches others there if the fabric may (by IPv4;
/// for that it has to be used within a tokio runtime); one of a pod on the host's network, also what the host does. Tasks
/// may share it.
pub struct UdpSocket(Kind);

enum Kind {
    Fabric(Virtual),
    Host(Arc<HostDatagrams>),
}

/// A socket of a pod of the fabric.
struct Virtual {
    mailbox: Arc<Mailbox>,
    hold: PortHold,
    payer: OnceLock<Arc<dyn Payer>>,
}

impl UdpSocket {
    pub(crate) fn new(mailbox: Arc<Mailbox>, hold: PortHold) -> Self {
        Self(Kind::Fabric(Virtual {
            mailbox,
            hold,
            payer: OnceLock::new(),
        }))
    }

    /// Has `payer` pay for datagrams that are sent from now on, as long as they wait in a mailbox. Those that it has no
    /// room for are lost. Only the first one counts.
    pub fn charge_to(&self, payer: Arc<dyn Payer>) {
        if let Kind::Fabric(own) = &self.0 {
            let _ = own.payer.set(payer);
        }
    }

    pub(crate) fn on_host(socket: Arc<HostDatagrams>) -> Self {
        Self(Kind::Host(socket))
    }

    /// The address that it is bound on.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Kind::Fabric(own) => own.mailbox.local,
            Kind::Host(socket) => socket.local(),
        }
    }

    /// The peer that it is connected to, if it is.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Fabric(own) => lock(&own.mailbox.inbox).peer,
            Kind::Host(socket) => socket.peer(),
        }
    }

    /// Connects to a peer: from now on, only its datagrams are taken. Nobody: takes them from all, as at first. What has
    /// arrived before from others is dropped.
    pub fn connect(&self, peer: Option<SocketAddr>) {
        match &self.0 {
            Kind::Fabric(own) => own.mailbox.connect(peer),
            Kind::Host(socket) => socket.connect(peer),
        }
    }

    /// Sends a datagram, at once. That it does not fail does not mean that it arrives: where the mailbox is full, or the
    /// pod sends more than it may have unread, it is lost.
    ///
    /// Errors: `MessageTooLong` over 65,507 bytes; `HostUnreachable`, `NetworkUnreachable` and `Denied`;
    /// `ConnectionRefused` if nobody takes datagrams there and the socket is connected to it (else it is lost without a
    /// word, as on Linux); `AddrNotAvailable` from a loopback address to elsewhere; `Closed`.
    pub fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        if data.len() > MAX_DATAGRAM {
            return Err(NetError::MessageTooLong {
                length: data.len(),
                limit: MAX_DATAGRAM,
            });
        }
        match &self.0 {
            Kind::Fabric(own) => own.send_to(data, to),
            Kind::Host(socket) => socket.send_to(data, to),
        }
    }

    /// Waits for a datagram. Cancelling loses nothing. Errors: `Closed`.
    pub async fn recv_from(&self) -> Result<Datagram, NetError> {
        match &self.0 {
            Kind::Fabric(own) => poll_fn(|cx| own.mailbox.poll(cx, Inbox::pop))
                .await
                .map(|letter| letter.read(own.account())),
            Kind::Host(socket) => poll_fn(|cx| socket.poll_receive(cx)).await,
        }
    }

    /// Takes a datagram if one has arrived.
    pub fn try_recv_from(&self) -> Result<Option<Datagram>, NetError> {
        match &self.0 {
            Kind::Fabric(own) => {
                let letter = lock(&own.mailbox.inbox).pop().transpose()?;
                Ok(letter.map(|letter| letter.read(own.account())))
            }
            Kind::Host(socket) => socket.try_receive(),
        }
    }

    /// Ready when [`try_recv_from`](Self::try_recv_from) would give something or fail. Several tasks may wait at once.
    pub fn poll_recv_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Kind::Fabric(own) => own.mailbox.poll(cx, |inbox| {
                (inbox.closed || !inbox.letters.is_empty()).then_some(())
            }),
            Kind::Host(socket) => socket.poll_ready(cx),
        }
    }
}

impl Virtual {
    fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        let pod = self.hold.pod();
        if pod.is_closed() {
            return Err(NetError::Closed);
        }
        let target = canonical(to);
        let from = pod.near(self.mailbox.local, target.ip())?;
        match self.find(pod, from, target)? {
            Some(Target::Pod(mailbox)) => {
                let note = pod.fabric.has_policy();
                mailbox.put_paid(data, from, (&pod.account, self.payer.get()), note);
            }
            Some(Target::Client(back)) => {
                pod.account.count_sent(data.len());
                back.send(&pod.fabric, data);
            }
            Some(Target::Beside(at)) => {
                pod.account.count_sent(data.len());
                if pod.fabric.has_policy() {
                    lock(&self.mailbox.correspondents).asked.note(at);
                }
                pod.fabric.send_out(data, from, at);
            }
            Some(Target::Outside(at)) => {
                pod.account.count_sent(data.len());
                self.mailbox.send_outside(&pod.fabric, &data, at)?;
            }
            None if self.mailbox.is_connected_to(target) => {
                return Err(NetError::ConnectionRefused(to));
            }
            None => {}
        }
        Ok(())
    }

    fn account(&self) -> &Account {
        &self.hold.pod().account
    }

    /// Who is to have a datagram for this address, if anybody.
    fn find(
        &self,
        pod: &Pod,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Option<Target>, NetError> {
        // The cluster's DNS has the node's own address in the fabric; so has the host, for whom it is a client like others.
        if to.ip() == pod.fabric.node_ip
            && let Some(back) = pod.fabric.flows.back(from, to)
        {
            return Ok(Some(Target::Client(back)));
        }
        if pod.is_own(to.ip()) {
            return Ok(pod.mailbox(to).map(Target::Pod));
        }
        let origin = Origin::Pod(IpAddr::V4(pod.ip));
        match pod.fabric.services.find(Protocol::Udp, to) {
            Found::Port(balancer) => self
                .mailbox
                .find_endpoint(&pod.fabric, origin, to, &balancer),
            Found::NoSuchPort => Ok(None),
            Found::NotAService => {
                if host_datagrams::may_be_client(&pod.fabric, to.ip())
                    && let Some(back) = pod.fabric.flows.back(from, to)
                {
                    return Ok(Some(Target::Client(back)));
                }
                pod.fabric
                    .datagram_target(origin, to, self.mailbox.is_correspondent(to), false)
            }
        }
    }
}

/// Where a datagram goes.
pub(crate) enum Target {
    /// To a socket of a pod.
    Pod(Arc<Mailbox>),
    /// Back to a client outside.
    Client(Back),
    /// To this address beside the fabric, by its uplink.
    Beside(SocketAddr),
    /// To this address outside, by a socket of the host.
    Outside(SocketAddr),
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        match &self.0 {
            Kind::Fabric(own) => own.mailbox.close(),
            Kind::Host(socket) => socket.close(),
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local_addr())
            .finish_non_exhaustive()
    }
}

/// Where datagrams wait for their socket.
pub(crate) struct Mailbox {
    local: SocketAddr,
    max_letters: usize,
    max_bytes: usize,
    inbox: Mutex<Inbox>,
    flows: Mutex<VecDeque<Flow>>,
    correspondents: Mutex<Correspondents>,
    /// What it sends to the outside by, once it has.
    outward: OnceLock<Outward>,
}

/// Whom a socket may answer, and who may answer it, whatever policies say.
#[derive(Default)]
struct Correspondents {
    /// Who has sent to it.
    heard: Recent,
    /// To whom beside the fabric it has sent.
    asked: Recent,
}

/// Addresses of late: at least the last so many, at most twice as many.
#[derive(Default)]
pub(crate) struct Recent {
    recent: HashSet<SocketAddr>,
    before: HashSet<SocketAddr>,
}

impl Recent {
    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        self.recent.contains(&address) || self.before.contains(&address)
    }

    pub(crate) fn note(&mut self, from: SocketAddr) {
        if self.recent.len() >= MAX_CORRESPONDENTS {
            self.before = mem::take(&mut self.recent);
        }
        self.recent.insert(from);
    }
}

#[derive(Default)]
struct Inbox {
    letters: VecDeque<Letter>,
    bytes: usize,
    peer: Option<SocketAddr>,
    readers: WakerSet,
    closed: bool,
}

/// A datagram on the books of who sent it.
struct Letter {
    datagram: Datagram,
    sender: Arc<Account>,
    payer: Option<Arc<dyn Payer>>,
}

impl Letter {
    fn size(&self) -> usize {
        self.datagram.data.len()
    }

    /// Out of the inbox; the drop clears the sender's books.
    fn read(self, reader: &Account) -> Datagram {
        reader.count_received(self.size());
        self.datagram.clone()
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        self.sender.clear(self.size());
        if let Some(payer) = &self.payer {
            payer.give_back(self.size());
        }
    }
}

/// A Service that the socket has sent to, and the endpoint that it got for it: further datagrams go there too, and what
/// comes from there comes from the Service.
#[derive(Clone, Copy)]
struct Flow {
    service: SocketAddr,
    endpoint: SocketAddr,
}

impl Inbox {
    fn pop(&mut self) -> Option<Result<Letter, NetError>> {
        match self.letters.pop_front() {
            Some(letter) => {
                self.bytes -= letter.size();
                Some(Ok(letter))
            }
            None if self.closed => Some(Err(NetError::Closed)),
            None => None,
        }
    }
}

impl Mailbox {
    pub(crate) fn new(local: SocketAddr, config: &FabricConfig) -> Self {
        Self {
            local,
            max_letters: config.pod_limits.datagrams,
            max_bytes: config.pod_limits.datagram_bytes,
            inbox: Mutex::default(),
            flows: Mutex::default(),
            correspondents: Mutex::default(),
            outward: OnceLock::new(),
        }
    }

    fn send_outside(
        self: &Arc<Self>,
        fabric: &Arc<Inner>,
        data: &[u8],
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let outward = if let Some(outward) = self.outward.get() {
            outward
        } else {
            let opened = Outward::open(fabric, self)?;
            // Whoever was faster: one is enough.
            self.outward.get_or_init(|| opened)
        };
        outward.send(data, to);
        Ok(())
    }

    fn is_connected_to(&self, target: SocketAddr) -> bool {
        let peer = lock(&self.inbox).peer;
        peer.is_some_and(|peer| canonical(peer) == target)
    }

    fn connect(&self, peer: Option<SocketAddr>) {
        let mut inbox = lock(&self.inbox);
        inbox.peer = peer;
        let (stay, go): (VecDeque<_>, VecDeque<_>) = mem::take(&mut inbox.letters)
            .into_iter()
            .partition(|letter| {
                peer.is_none_or(|peer| canonical(peer) == canonical(letter.datagram.from))
            });
        inbox.letters = stay;
        inbox.bytes = inbox.letters.iter().map(Letter::size).sum();
        drop(inbox);
        drop(go);
    }

    /// Takes a datagram, or loses it. `note` has the sender remembered, so that it can be answered whatever policies say.
    pub(crate) fn put(&self, data: Bytes, from: SocketAddr, sender: &Arc<Account>, note: bool) {
        self.put_paid(data, from, (sender, None), note);
    }

    /// The same, of a sender who may have somebody pay for it.
    fn put_paid(
        &self,
        data: Bytes,
        from: SocketAddr,
        (sender, payer): (&Arc<Account>, Option<&Arc<dyn Payer>>),
        note: bool,
    ) {
        if sender.is_pressed() {
            return;
        }
        if note {
            lock(&self.correspondents).heard.note(from);
        }
        let from = like(self.seen_as(from), self.local);
        let mut inbox = lock(&self.inbox);
        let is_strange = inbox
            .peer
            .is_some_and(|peer| canonical(peer) != canonical(from));
        let is_full =
            inbox.letters.len() >= self.max_letters || inbox.bytes + data.len() > self.max_bytes;
        if inbox.closed || is_strange || is_full {
            return;
        }
        if payer.is_some_and(|payer| !payer.take(data.len())) {
            return;
        }
        let data = if data.len() < SMALL {
            Bytes::copy_from_slice(&data)
        } else {
            data
        };
        sender.book(data.len());
        inbox.bytes += data.len();
        inbox.letters.push_back(Letter {
            datagram: Datagram { data, from },
            sender: sender.clone(),
            payer: payer.cloned(),
        });
        let readers = inbox.readers.take();
        drop(inbox);
        readers.wake();
    }

    /// Whether this is somebody who has sent to the socket lately.
    fn is_correspondent(&self, address: SocketAddr) -> bool {
        lock(&self.correspondents).heard.contains(address)
    }

    /// Whether the socket has lately sent to this address beside the fabric.
    pub(crate) fn asked(&self, address: SocketAddr) -> bool {
        lock(&self.correspondents).asked.contains(address)
    }

    /// The Service, if this is the endpoint that the socket talks to by a Service.
    fn seen_as(&self, from: SocketAddr) -> SocketAddr {
        let flows = lock(&self.flows);
        flows
            .iter()
            .rev()
            .find(|flow| flow.endpoint == from)
            .map_or(from, |flow| flow.service)
    }

    /// The endpoint that this socket's datagrams to a Service go to: the same one as before, while it is
    /// one of the Service's and alive.
    fn find_endpoint(
        &self,
        fabric: &Inner,
        origin: Origin,
        service: SocketAddr,
        balancer: &Balancer,
    ) -> Result<Option<Target>, NetError> {
        let known = lock(&self.flows)
            .iter()
            .find(|flow| flow.service == service)
            .copied();
        if let Some(flow) = known.filter(|flow| balancer.contains(flow.endpoint))
            && let Some(target) = self.try_flow(fabric, origin, flow)?
        {
            return Ok(Some(target));
        }
        for endpoint in balancer.order(origin.ip()) {
            let flow = Flow { service, endpoint };
            if let Some(target) = self.try_flow(fabric, origin, flow)? {
                balancer.settle(origin.ip(), endpoint);
                return Ok(Some(target));
            }
        }
        fabric.wake(balancer);
        Ok(None)
    }

    /// The endpoint, if it is alive and may be reached.
    fn try_flow(
        &self,
        fabric: &Inner,
        origin: Origin,
        flow: Flow,
    ) -> Result<Option<Target>, NetError> {
        match fabric.datagram_target(origin, flow.endpoint, false, true) {
            Ok(Some(target)) => {
                self.remember(flow);
                Ok(Some(target))
            }
            Err(error) if !error.is_endpoint_dead() => Err(error),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    fn remember(&self, flow: Flow) {
        let mut flows = lock(&self.flows);
        flows.retain(|other| other.service != flow.service);
        if flows.len() >= MAX_FLOWS {
            flows.pop_front();
        }
        flows.push_back(flow);
    }

    /// Takes no more, and forgets what has arrived.
    pub(crate) fn close(&self) {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        inbox.bytes = 0;
        let letters = mem::take(&mut inbox.letters);
        let readers = inbox.readers.take();
        drop(inbox);
        drop(letters);
        readers.wake();
    }

    fn poll<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut Inbox) -> Option<T>) -> Poll<T> {
        let mut inbox = lock(&self.inbox);
        if let Some(found) = look(&mut inbox) {
            return Poll::Ready(found);
        }
        let displaced = inbox.readers.add(cx.waker());
        drop(inbox);
        if let Some(waker) = displaced {
            waker.wake();
        }
        Poll::Pending
    }
}
