//! One connection: a stack on the kernel's side, a stream on the fabric's.
//!
//! Whoever has something for it drives it: the queue's reader brings a packet, the connection's own task waits for the
//! stream and the clock. Both do all that there is to do, under the lock, so that a byte never waits for a second task.

use std::{
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State as TcpState},
    time::Instant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use tokio::sync::Notify;
use vaquita_net::{NetError, Stream};

use super::{
    device::{Port, Queue, Told},
    hub::Clock,
    packet::{self, Pair},
};
use crate::KernelNetConfig;

/// How long a peer has to end its side after the pod has ended all of its own: what Linux gives it.
const ORPHANED: Duration = Duration::from_mins(1);
/// How long to wait when the stack has something to do that it just could not do.
const BREATH: Duration = Duration::from_millis(1);

/// A connection in the table.
pub(super) struct Flow {
    pub(super) pair: Pair,
    pub(super) queue: Arc<Queue>,
    state: Mutex<State>,
    /// Tells the connection's task that it waits for the wrong things.
    changed: Notify,
}

enum State {
    /// Somebody in the fabric is being looked for who takes it.
    Opening,
    Open(Box<Connection>),
    Over,
}

impl Flow {
    pub(super) fn new(pair: Pair, queue: Arc<Queue>) -> Self {
        Self {
            pair,
            queue,
            state: Mutex::new(State::Opening),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins: `opening` is the packet with which the other side began.
    pub(super) fn open(&self, mut connection: Connection, now: Instant, opening: Option<&[u8]>) {
        let mut state = self.lock();
        if matches!(*state, State::Opening) {
            connection.pump(now, &self.queue, opening);
            *state = State::Open(Box::new(connection));
        }
    }

    /// Takes a packet of the connection.
    pub(super) fn take(&self, now: Instant, packet: &[u8]) {
        let mut state = self.lock();
        let State::Open(connection) = &mut *state else {
            return;
        };
        connection.pump(now, &self.queue, Some(packet));
        let is_surprised = connection.is_surprised(now);
        drop(state);
        if is_surprised {
            self.changed.notify_one();
        }
    }

    /// Waits until the other side has taken a connection that a pod begins.
    pub(super) async fn established(&self, clock: Clock) -> Result<(), NetError> {
        let to = SocketAddr::V4(self.pair.kernel);
        loop {
            let deadline = {
                let mut state = self.lock();
                let State::Open(connection) = &mut *state else {
                    return Err(NetError::Closed);
                };
                let now = clock.now();
                connection.pump(now, &self.queue, None);
                if connection.is_unreachable {
                    return Err(NetError::HostUnreachable(to));
                }
                match connection.socket().state() {
                    TcpState::SynSent | TcpState::SynReceived => connection.arm(now).deadline,
                    TcpState::Closed => return Err(NetError::ConnectionRefused(to)),
                    _ => return Ok(()),
                }
            };
            tokio::select! {
                () = clock.sleep_until(deadline) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Gives the connection its pod's end.
    pub(super) fn attach(&self, stream: Stream) {
        match &mut *self.lock() {
            State::Open(connection) => connection.stream = Some(Arc::new(stream)),
            State::Opening | State::Over => stream.reset(),
        }
    }

    /// Notes that the kernel knows no way to the other side.
    pub(super) fn note_unreachable(&self) {
        if let State::Open(connection) = &mut *self.lock()
            && connection.stream.is_none()
        {
            connection.is_unreachable = true;
            self.changed.notify_one();
        }
    }

    /// Serves the connection until it is over.
    pub(super) async fn serve(&self, clock: Clock) {
        loop {
            let (stream, interest) = {
                let mut state = self.lock();
                let State::Open(connection) = &mut *state else {
                    return;
                };
                let now = clock.now();
                connection.pump(now, &self.queue, None);
                if connection.is_over() {
                    *state = State::Over;
                    return;
                }
                (connection.stream.clone(), connection.arm(now))
            };
            let alarm = clock.sleep_until(interest.deadline);
            tokio::select! {
                () = poll_fn(|cx| interest.poll(stream.as_deref(), cx)) => {}
                () = alarm => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Ends it at once, on both sides.
    pub(super) fn cut(&self, now: Instant) {
        let state = std::mem::replace(&mut *self.lock(), State::Over);
        if let State::Open(mut connection) = state {
            connection.abort();
            connection.pump(now, &self.queue, None);
        }
        self.changed.notify_one();
    }
}

/// What a connection's task waits for.
#[derive(Clone, Copy, Debug, Default)]
struct Interest {
    /// The pod has something to say, and there is room for it.
    read: bool,
    /// The pod has room for what is here.
    write: bool,
    deadline: Option<Instant>,
}

impl Interest {
    fn poll(self, stream: Option<&Stream>, cx: &Context<'_>) -> Poll<()> {
        let Some(stream) = stream else {
            return Poll::Pending;
        };
        let can_read = self.read && stream.poll_read_ready(cx).is_ready();
        let can_write = self.write && stream.poll_write_ready(cx).is_ready();
        if can_read || can_write {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Whether who waits for `armed` would miss something of this.
    fn exceeds(self, armed: Self) -> bool {
        let sooner = match (self.deadline, armed.deadline) {
            (Some(own), Some(armed)) => own < armed,
            (own, None) => own.is_some(),
            (None, Some(_)) => false,
        };
        (self.read && !armed.read) || (self.write && !armed.write) || sooner
    }
}

/// The two sides of a connection.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is about another side, and may come before or after the others"
)]
pub(super) struct Connection {
    stack: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// The pod's end: not there until the other side has taken a connection that a pod begins.
    stream: Option<Arc<Stream>>,
    is_unreachable: bool,
    /// The pod has said all that it will say.
    pod_ended: bool,
    /// The pod has been told that the other side has said all.
    told_end: bool,
    /// The other side has said all.
    kernel_ended: bool,
    /// When the other side is given up, if the pod is gone.
    orphaned: Option<Instant>,
    armed: Interest,
    told: Told,
}

impl Connection {
    /// A connection that the kernel's side begins.
    pub(super) fn accept(
        pair: Pair,
        stream: Stream,
        queue: &Queue,
        config: &KernelNetConfig,
        now: Instant,
    ) -> io::Result<Self> {
        let mut connection = Self::new(pair, queue, config, now);
        let listening = connection.socket().listen(pair.fabric);
        listening.map_err(io::Error::other)?;
        connection.stream = Some(Arc::new(stream));
        Ok(connection)
    }

    /// A connection that a pod begins.
    pub(super) fn connect(
        pair: Pair,
        queue: &Queue,
        config: &KernelNetConfig,
        now: Instant,
    ) -> io::Result<Self> {
        let mut connection = Self::new(pair, queue, config, now);
        let context = connection.stack.context();
        let socket = connection.sockets.get_mut::<Socket<'_>>(connection.socket);
        let connecting = socket.connect(context, pair.kernel, pair.fabric);
        connecting.map_err(io::Error::other)?;
        Ok(connection)
    }

    fn new(pair: Pair, queue: &Queue, config: &KernelNetConfig, now: Instant) -> Self {
        let mut options = Config::new(HardwareAddress::Ip);
        options.random_seed = rand::random();
        let mut stack = Interface::new(
            options,
            &mut Port::new(queue, None, &mut Told::default()),
            now,
        );
        stack.update_ip_addrs(|own| {
            // The first of an empty list always fits.
            let _fits = own.push(IpCidr::new(IpAddress::Ipv4(*pair.fabric.ip()), 32));
        });
        let buffer = || SocketBuffer::new(vec![0; config.window]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let silence = config.dead_after.max(Duration::from_secs(2));
        socket.set_timeout(Some(silence.into()));
        socket.set_keep_alive(Some((silence / 5).into()));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self {
            stack,
            sockets,
            socket,
            stream: None,
            is_unreachable: false,
            pod_ended: false,
            told_end: false,
            kernel_ended: false,
            orphaned: None,
            armed: Interest::default(),
            told: Told::default(),
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Does all that there is to do.
    fn pump(&mut self, now: Instant, queue: &Queue, packet: Option<&[u8]>) {
        if let Some(packet) = packet {
            self.take(now, queue, packet);
        }
        loop {
            // The pod is woken before the kernel gets its acknowledgement: it has more to do.
            let moved = self.feed_pod() | self.hear_pod();
            if self.is_drained_only() {
                break;
            }
            let mut port = Port::new(queue, None, &mut self.told);
            let sent = self.stack.poll_egress(now, &mut port, &mut self.sockets);
            if !moved && sent == PollResult::None {
                break;
            }
        }
        self.note_ends(now);
    }

    /// Gives the stack a packet.
    fn take(&mut self, now: Instant, queue: &Queue, packet: &[u8]) {
        let is_shut = self.told.window == 0 && self.stream.is_some();
        let alone = is_shut
            .then(|| packet::acknowledgement(packet, self.told.expected))
            .flatten();
        for packet in alone.as_deref().into_iter().chain([packet]) {
            let mut port = Port::new(queue, Some(packet), &mut self.told);
            self.stack
                .poll_ingress_single(now, &mut port, &mut self.sockets);
        }
    }

    /// Hands on what has come from the kernel.
    fn feed_pod(&mut self) -> bool {
        let Some(stream) = self.stream.clone() else {
            return false;
        };
        let socket = self.socket();
        let mut moved = false;
        while socket.can_recv() {
            let taken = socket.recv(|data| match stream.try_write_from(data) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match taken {
                Ok(Ok(length)) => moved |= length > 0,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The pod hears no more: the other side is to know.
                Ok(Err(_)) | Err(_) => {
                    socket.abort();
                    break;
                }
            }
        }
        moved
    }

    /// Takes what the pod has to say.
    fn hear_pod(&mut self) -> bool {
        let Some(stream) = self.stream.clone() else {
            return false;
        };
        let mut moved = false;
        while !self.pod_ended && self.socket().can_send() {
            let socket = self.socket();
            let taken = socket.send(|space| match stream.try_read_into(space) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match taken {
                Ok(Ok(0)) => {
                    socket.close();
                    self.pod_ended = true;
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(Err(_)) | Err(_) => {
                    socket.abort();
                    break;
                }
            }
        }
        moved
    }

    /// Whether all that is left to do is to hand on what has come: the stack would forget that in time.
    fn is_drained_only(&mut self) -> bool {
        self.pod_ended && self.kernel_ended && self.socket().state() == TcpState::TimeWait
    }

    /// Looks who has ended.
    fn note_ends(&mut self, now: Instant) {
        let (state, is_empty) = {
            let socket = self.socket();
            (socket.state(), !socket.can_recv())
        };
        self.kernel_ended |= matches!(
            state,
            TcpState::CloseWait | TcpState::LastAck | TcpState::Closing | TcpState::TimeWait
        );
        let Some(stream) = &self.stream else { return };
        if self.kernel_ended && is_empty && !self.told_end {
            self.told_end = true;
            // Fails only if nobody is there any more.
            let _nobody = stream.shutdown(Shutdown::Write);
        }
        if state == TcpState::Closed && !(self.pod_ended && self.kernel_ended) {
            stream.reset();
        }
        let is_deaf = || stream.try_write_from(&[]).is_err();
        if state == TcpState::FinWait2 && self.orphaned.is_none() && is_deaf() {
            self.orphaned = Some(now + ORPHANED.into());
        }
        if self.orphaned.is_some_and(|end| now >= end) && state == TcpState::FinWait2 {
            self.abort();
        }
    }

    fn abort(&mut self) {
        self.socket().abort();
    }

    /// Whether there is nothing left to do.
    fn is_over(&mut self) -> bool {
        let ended = self.pod_ended && self.kernel_ended;
        let told_end = self.told_end;
        let socket = self.socket();
        match socket.state() {
            // The last acknowledgement is sent. Should it be lost, a reset says the same.
            TcpState::TimeWait => told_end,
            TcpState::Closed => !ended || told_end,
            _ => false,
        }
    }

    fn interest(&mut self, now: Instant) -> Interest {
        let deadline = if self.is_drained_only() {
            None
        } else {
            let due = self.stack.poll_at(now, &self.sockets);
            let due = due.map(|due| due.max(now + BREATH.into()));
            due.into_iter().chain(self.orphaned).min()
        };
        let pod_ended = self.pod_ended;
        let socket = self.socket();
        Interest {
            read: !pod_ended && socket.can_send(),
            write: socket.can_recv(),
            deadline,
        }
    }

    fn arm(&mut self, now: Instant) -> Interest {
        self.armed = self.interest(now);
        self.armed
    }

    /// Whether the connection's task waits for less than there is to wait for now.
    fn is_surprised(&mut self, now: Instant) -> bool {
        let armed = self.armed;
        if self.stream.is_none() {
            return self.socket().state() != TcpState::SynSent;
        }
        self.is_over() || self.interest(now).exceeds(armed)
    }
}
