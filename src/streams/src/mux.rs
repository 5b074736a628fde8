//! The streams of one connection, whichever protocol carries them.
//!
//! Handles ([`Stream`], [`Connection`]) and the protocol's driver share one [`Shared`]. The driver's reading half puts in
//! what came ([`Shared::deliver`], [`Shared::opened`], ...) and waits while a stream is full; its writing half takes out
//! what is to go ([`Shared::next`]). A single lock suffices: it is never held for longer than it takes to move a buffer.

mod stream;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

pub use self::stream::Stream;
use crate::Limits;

/// How many bytes go into one frame or message.
pub(crate) const CHUNK: usize = 16 << 10;
/// How long what waits may take to go out when a connection is to end.
const FLUSH: Duration = Duration::from_secs(30);
/// Answers to pings that may wait to be sent; whoever sends more without reading is cut off.
const MAX_PONGS: usize = 64;
/// The window that a stream of SPDY/3.1 begins with (section 2.6.8).
const INITIAL_WINDOW: i64 = 64 << 10;

/// Names, in lower case, and values of a stream's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// Headers of pairs.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| (name.to_ascii_lowercase(), (*value).to_owned());
        Self(pairs.iter().map(owned).collect())
    }

    /// The first value of `name`, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(own, _)| own == name)?;
        Some(value)
    }
}

/// Something for the driver to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Open { id: u32, headers: Headers },
    Reply { id: u32 },
    Data { id: u32, data: Bytes, fin: bool },
    Reset { id: u32, why: Refusal },
    Window { id: u32, delta: u32 },
    Pong(u32),
}

impl Outgoing {
    /// What data takes of the room for data; `None` for what is not data.
    fn cost(&self) -> Option<usize> {
        match self {
            Self::Data { data, .. } => Some(data.len() + size_of::<Self>()),
            _ => None,
        }
    }
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It makes no sense.
    Protocol,
    /// There is no such stream.
    Unknown,
    /// There are too many.
    Refused,
    /// Nobody wants it any more.
    Cancel,
}

/// How the peer's half of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In good order: what was sent before can be read.
    Finished,
    Reset,
    /// With the connection.
    Lost,
}

/// One stream's state.
#[derive(Debug, Default)]
struct Slot {
    incoming: VecDeque<Bytes>,
    buffered: usize,
    end: Option<End>,
    /// Whether our half has ended.
    finished: bool,
    /// Bytes that went out.
    sent: i64,
    /// What the peer added to the window.
    granted: i64,
    /// Bytes read that the peer has not been told of.
    consumed: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Slot {
    fn wake(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

/// What the connection is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Nobody here needs it any more: what waits goes out, then it ends.
    Closing,
    /// It has ended.
    Closed,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    streams: HashMap<u32, Slot>,
    /// The id that the next stream opened from here gets.
    next_id: u32,
    /// Streams that the peer opened and nobody has taken yet.
    accepted: VecDeque<(u32, Headers)>,
    acceptor: Option<Waker>,
    out: VecDeque<Outgoing>,
    out_bytes: usize,
    pongs: usize,
    /// Waiting frames that are not data.
    controls: usize,
    /// The driver's writing half.
    driver: Option<Waker>,
    /// The driver's reading half, while a stream is full.
    feeder: Option<Waker>,
    /// The window that streams begin with, once the peer has shown that it counts. Go's clients, which are nearly all
    /// there are, never speak of windows and would wait for ever if we insisted on them.
    window: Option<i64>,
    last_activity: Instant,
    closed: Vec<Waker>,
}

/// What handles and driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    limits: Limits,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection has ended, or ends.
    #[error("the connection is closed")]
    Closed,
    /// As many streams are open as may be.
    #[error("too many streams are open")]
    TooMany,
}

/// One connection with its streams. Dropping it ends the connection when what was written has gone out; streams that
/// still have their handles read and write no more then.
#[derive(Debug)]
pub struct Connection(pub(crate) Arc<Shared>);

impl Connection {
    /// The next stream that the peer opens, with its headers; `None` when the connection has ended.
    pub async fn accept(&self) -> Option<(Stream, Headers)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<Option<(Stream, Headers)>> {
        let mut state = self.0.lock();
        if let Some((id, headers)) = state.accepted.pop_front() {
            return Poll::Ready(Some((Stream::new(self.0.clone(), id), headers)));
        }
        if state.phase != Phase::Open {
            return Poll::Ready(None);
        }
        state.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Opens a stream. It can be written at once; the peer may still refuse it.
    pub fn open(&self, headers: Headers) -> Result<Stream, OpenError> {
        let mut state = self.0.lock();
        if state.phase != Phase::Open {
            return Err(OpenError::Closed);
        }
        if state.streams.len() >= self.0.limits.streams || state.next_id > i32::MAX.cast_unsigned()
        {
            return Err(OpenError::TooMany);
        }
        let id = state.next_id;
        state.next_id += 2;
        state.streams.insert(id, Slot::default());
        state.push(Outgoing::Open { id, headers });
        drop(state);
        Ok(Stream::new(self.0.clone(), id))
    }

    /// Resolves when the connection has ended, for whatever reason. Does not hold it.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.0.clone();
        async move { std::future::poll_fn(|cx| shared.poll_phase(cx, Phase::Closed)).await }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl State {
    fn push(&mut self, outgoing: Outgoing) {
        if self.phase == Phase::Closed {
            return;
        }
        match outgoing.cost() {
            Some(cost) => self.out_bytes += cost,
            None => self.controls += 1,
        }
        self.out.push_back(outgoing);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// How many bytes the window of `slot` has left; no end of them if the peer does not count.
    fn window_of(&self, slot: &Slot) -> usize {
        match self.window {
            None => usize::MAX,
            Some(initial) => usize::try_from(initial + slot.granted - slot.sent).unwrap_or(0),
        }
    }

    fn wake_writers(&mut self) {
        for slot in self.streams.values_mut() {
            if let Some(writer) = slot.writer.take() {
                writer.wake();
            }
        }
    }
}

/// Wakes whoever waits, if anybody does. Done when the lock has been let go.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Shared {
    /// The state of a new connection whose own streams have the ids `first_id`, `first_id + 2`, ...
    pub(crate) fn new(first_id: u32, limits: Limits) -> Arc<Self> {
        let state = State {
            phase: Phase::Open,
            streams: HashMap::new(),
            next_id: first_id,
            accepted: VecDeque::new(),
            acceptor: None,
            out: VecDeque::new(),
            out_bytes: 0,
            pongs: 0,
            controls: 0,
            driver: None,
            feeder: None,
            window: None,
            last_activity: Instant::now(),
            closed: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            limits,
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that both sides know of without a word, as the channels of a WebSocket.
    pub(crate) fn channel(self: &Arc<Self>, id: u32) -> Stream {
        self.lock().streams.insert(id, Slot::default());
        Stream::new(self.clone(), id)
    }

    /// The peer opens a stream. `Err` says how to refuse it.
    pub(crate) fn opened(&self, id: u32, headers: Headers, fin: bool) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.streams.contains_key(&id) {
            return Err(Refusal::Protocol);
        }
        if state.phase != Phase::Open || state.streams.len() >= self.limits.streams {
            return Err(Refusal::Refused);
        }
        let slot = Slot {
            end: fin.then_some(End::Finished),
            ..Slot::default()
        };
        state.streams.insert(id, slot);
        state.push(Outgoing::Reply { id });
        state.accepted.push_back((id, headers));
        let acceptor = state.acceptor.take();
        drop(state);
        wake(acceptor);
        Ok(())
    }

    /// Data came. Waits until the stream has room for it; what nobody reads any more is dropped. `Err` if there never
    /// was such a stream, or it had ended.
    pub(crate) async fn deliver(&self, id: u32, data: Bytes, fin: bool) -> Result<(), Refusal> {
        let mut data = Some(data);
        std::future::poll_fn(|cx| self.poll_deliver(cx, id, &mut data, fin)).await
    }

    fn poll_deliver(
        &self,
        cx: &Context<'_>,
        id: u32,
        data: &mut Option<Bytes>,
        fin: bool,
    ) -> Poll<Result<(), Refusal>> {
        let mut state = self.lock();
        let Some(slot) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(Refusal::Unknown));
        };
        if slot.end.is_some() {
            return Poll::Ready(Err(Refusal::Protocol));
        }
        if slot.buffered >= self.limits.inbound {
            state.feeder = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(data) = data.take().filter(|data| !data.is_empty()) {
            slot.buffered += data.len();
            slot.incoming.push_back(data);
        }
        if fin {
            slot.end = Some(End::Finished);
        }
        let reader = slot.reader.take();
        drop(state);
        wake(reader);
        Poll::Ready(Ok(()))
    }

    /// The peer's half of a stream has ended without data.
    pub(crate) fn finished(&self, id: u32) {
        self.end(id, End::Finished);
    }

    /// The peer wants no more of a stream.
    pub(crate) fn reset(&self, id: u32) {
        self.end(id, End::Reset);
    }

    fn end(&self, id: u32, end: End) {
        let mut state = self.lock();
        let Some(slot) = state.streams.get_mut(&id) else {
            return;
        };
        if end == End::Reset {
            slot.finished = true;
            slot.end = Some(slot.end.unwrap_or(End::Reset));
        } else if slot.end.is_none() {
            slot.end = Some(end);
        }
        let wakers = slot.wake();
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// The peer takes `delta` more bytes of a stream, and counts them. `Err` if that is more than it can mean.
    pub(crate) fn grant(&self, id: u32, delta: u32) -> Result<(), Refusal> {
        let mut state = self.lock();
        state.window.get_or_insert(INITIAL_WINDOW);
        let initial = state.window.unwrap_or(INITIAL_WINDOW);
        let Some(slot) = state.streams.get_mut(&id) else {
            return Ok(());
        };
        slot.granted += i64::from(delta);
        if initial + slot.granted - slot.sent > i64::from(i32::MAX) {
            return Err(Refusal::Protocol);
        }
        let writer = slot.writer.take();
        drop(state);
        wake(writer);
        Ok(())
    }

    /// The peer says with which window streams begin, those that are open included.
    pub(crate) fn initial_window(&self, window: u32) {
        let mut state = self.lock();
        state.window = Some(i64::from(window.min(i32::MAX.cast_unsigned())));
        state.wake_writers();
    }

    /// Whether a number is one of those that this side gives out.
    pub(crate) fn is_ours(&self, id: u32) -> bool {
        id % 2 == self.lock().next_id % 2
    }

    /// Answers a ping. False if too many answers wait: the peer sends, but does not read.
    pub(crate) fn pong(&self, id: u32) -> bool {
        let mut state = self.lock();
        if state.pongs >= MAX_PONGS {
            return false;
        }
        state.pongs += 1;
        state.push(Outgoing::Pong(id));
        true
    }

    /// Refuses a stream that has no handle here.
    pub(crate) fn refuse(&self, id: u32, why: Refusal) {
        self.lock().push(Outgoing::Reset { id, why });
    }

    /// Whether the peer has caused more answers than it cares to read.
    pub(crate) fn flooded(&self) -> bool {
        self.lock().controls > self.limits.streams.saturating_mul(4) + 1024
    }

    /// What to send next; `None` when the connection is to end and all has been sent.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Outgoing>> {
        let mut state = self.lock();
        let Some(outgoing) = state.out.pop_front() else {
            if state.phase != Phase::Open {
                return Poll::Ready(None);
            }
            state.driver = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let Some(cost) = outgoing.cost() {
            let (before, limit) = (state.out_bytes, self.limits.outbound);
            state.out_bytes -= cost;
            if before >= limit && state.out_bytes < limit {
                state.wake_writers();
            }
        } else {
            state.controls -= 1;
            state.pongs -= usize::from(matches!(outgoing, Outgoing::Pong(_)));
        }
        Poll::Ready(Some(outgoing))
    }

    /// Waits for something to send.
    pub(crate) async fn next(&self) -> Option<Outgoing> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What can be sent without waiting.
    pub(crate) fn try_next(&self) -> Option<Outgoing> {
        let ready = self.poll_next(&Context::from_waker(Waker::noop()));
        match ready {
            Poll::Ready(outgoing) => outgoing,
            Poll::Pending => None,
        }
    }

    /// Something came or went.
    pub(crate) fn touch(&self) {
        self.lock().last_activity = Instant::now();
    }

    /// Waits until nothing has come or gone for as long as that may last.
    pub(crate) async fn idle(&self) {
        loop {
            let deadline = self.lock().last_activity + self.limits.idle;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Nobody here needs the connection any more.
    fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        let mut wakers = std::mem::take(&mut state.closed);
        wakers.extend(state.driver.take());
        wakers.extend(state.acceptor.take());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The driver has ended.
    pub(crate) fn lost(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.out.clear();
        (state.out_bytes, state.controls, state.pongs) = (0, 0, 0);
        let mut wakers = std::mem::take(&mut state.closed);
        wakers.extend(state.acceptor.take());
        for slot in state.streams.values_mut() {
            slot.finished = true;
            slot.end = Some(slot.end.unwrap_or(End::Lost));
            wakers.extend(slot.wake().into_iter().flatten());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until the connection is to end, and then for as long as that may take.
    pub(crate) async fn overdue(&self) {
        std::future::poll_fn(|cx| self.poll_phase(cx, Phase::Closing)).await;
        tokio::time::sleep(FLUSH).await;
    }

    fn poll_phase(&self, cx: &Context<'_>, phase: Phase) -> Poll<()> {
        let mut state = self.lock();
        if state.phase >= phase {
            return Poll::Ready(());
        }
        if !state.closed.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.closed.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
