//! The memory pipe: a connection inside the node.
//!
//! A connection is two [`Ring`]s, one for each direction, in one allocation that both [`End`]s share. A ring is a queue
//! of byte chunks, bounded by their sum. Large chunks pass as they are, by reference; small ones are gathered, so that
//! neither a million one-byte writes nor a small slice of a huge buffer costs more memory than the bound says. No task
//! serves a connection: whoever reads or writes wakes the other side, after unlocking.
//!
//! The lives of a ring follow TCP: the writer finishes (the reader sees the rest, then the end), the reader turns deaf
//! (the writer gets `BrokenPipe`), or the connection is reset (both get `ConnectionReset`, the reader after what had
//! arrived before). Dropping an end that has not read everything resets, as a kernel does.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    payer::Payer,
    sync::{WakerSet, lock},
};

/// Chunks below this are copied together with their neighbours.
const SMALL: usize = 512;
/// Slices from this on get a chunk of their own when copied.
const LARGE: usize = 4096;
/// Copied slices are gathered up to this size.
const GATHERED: usize = 8192;
/// An emptied gathering buffer above this is given back, so that idle connections hold next to nothing.
const KEPT: usize = 1024;
/// What a connection may buffer while its pod is above its limit of unread bytes.
const UNDER_PRESSURE: usize = 4096;

/// What a pod's connections add up to, shared by all of them.
#[derive(Debug)]
pub(crate) struct Account {
    limit: usize,
    unread: AtomicUsize,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Account {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            unread: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// Whether the pod has more unread bytes than it may.
    pub(crate) fn is_pressed(&self) -> bool {
        self.unread() > self.limit
    }

    /// Books bytes that are sent and wait to be read.
    pub(crate) fn book(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        self.count_sent(bytes);
    }

    /// Takes bytes off the books, which were read or are lost.
    pub(crate) fn clear(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes sent that nobody has read.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The life of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The writer is done; what is buffered can still be read.
    Finished,
    /// The reader wants no more.
    Deaf,
    Reset,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Sealed chunks, oldest first; all of them are older than `tail`.
    chunks: VecDeque<Bytes>,
    /// Small writes, gathered.
    tail: BytesMut,
    /// Bytes in `chunks` and `tail`.
    len: usize,
    /// Those of them that the ring's payer pays for: the last ones.
    paid: usize,
    readers: WakerSet,
    writers: WakerSet,
}

impl State {
    fn push(&mut self, chunk: Bytes) {
        if chunk.len() < SMALL {
            self.append(&chunk);
        } else {
            self.len += chunk.len();
            self.seal();
            self.chunks.push_back(chunk);
        }
    }

    fn append(&mut self, slice: &[u8]) {
        self.len += slice.len();
        if slice.len() >= LARGE {
            self.seal();
            self.chunks.push_back(Bytes::copy_from_slice(slice));
            return;
        }
        if self.tail.len() + slice.len() > GATHERED {
            self.seal();
        }
        self.tail.extend_from_slice(slice);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(mem::take(&mut self.tail).freeze());
        }
    }

    /// The oldest bytes, at most `max` of them, as they lie.
    fn pop(&mut self, max: usize) -> Bytes {
        let chunk = match self.chunks.front_mut() {
            Some(front) if front.len() > max => front.split_to(max),
            Some(_) => self.chunks.pop_front().unwrap_or_default(),
            None if self.tail.len() > max => self.tail.split_to(max).freeze(),
            None => mem::take(&mut self.tail).freeze(),
        };
        self.len -= chunk.len();
        chunk
    }

    /// Fills as much of `buffer` as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            if let Some(front) = self.chunks.front_mut() {
                filled += copy_front(front, rest);
                if front.is_empty() {
                    self.chunks.pop_front();
                }
            } else if self.tail.is_empty() {
                break;
            } else {
                filled += copy_front(&mut self.tail, rest);
            }
        }
        if self.tail.is_empty() && self.tail.capacity() > KEPT {
            self.tail = BytesMut::new();
        }
        self.len -= filled;
        filled
    }

    fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        mem::take(&mut self.len)
    }

    fn check_write(&self) -> io::Result<()> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Finished | Phase::Deaf => Err(io::ErrorKind::BrokenPipe.into()),
            Phase::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// What a read gets when nothing is buffered.
    fn dry(&self) -> io::Result<()> {
        match self.phase {
            Phase::Open => Err(io::ErrorKind::WouldBlock.into()),
            Phase::Finished | Phase::Deaf => Ok(()),
            Phase::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

fn copy_front(from: &mut impl Buf, to: &mut [u8]) -> usize {
    let length = from.remaining().min(to.len());
    from.copy_to_slice(&mut to[..length]);
    length
}

/// One direction of a connection.
#[derive(Debug)]
struct Ring {
    state: Mutex<State>,
    capacity: usize,
    writer: Arc<Account>,
    reader: Arc<Account>,
    /// Who pays for what waits to be read, besides.
    payer: OnceLock<Arc<dyn Payer>>,
}

impl Ring {
    fn new(capacity: usize, writer: Arc<Account>, reader: Arc<Account>) -> Self {
        let state = State {
            phase: Phase::Open,
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            paid: 0,
            readers: WakerSet::default(),
            writers: WakerSet::default(),
        };
        Self {
            state: Mutex::new(state),
            capacity,
            writer,
            reader,
            payer: OnceLock::new(),
        }
    }

    fn room(&self, state: &State) -> usize {
        let capacity = if self.writer.is_pressed() {
            self.capacity.min(UNDER_PRESSURE)
        } else {
            self.capacity
        };
        capacity.saturating_sub(state.len)
    }

    /// Puts in as many of `wanted` bytes as there is room for: `put` is told how many.
    fn write(&self, wanted: usize, put: impl FnOnce(&mut State, usize)) -> io::Result<usize> {
        let mut state = lock(&self.state);
        state.check_write()?;
        let length = self.room(&state).min(wanted);
        if length == 0 {
            return if wanted == 0 {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        if let Some(payer) = self.payer.get() {
            if !payer.take(length) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            state.paid += length;
        }
        put(&mut state, length);
        self.writer.book(length);
        let woken = state.readers.take();
        drop(state);
        woken.wake();
        Ok(length)
    }

    /// Takes out what `take` takes, which says how many bytes that were; nothing at the end.
    fn read<T: Default>(&self, take: impl FnOnce(&mut State) -> (T, usize)) -> io::Result<T> {
        let mut state = lock(&self.state);
        if state.len == 0 {
            return state.dry().map(|()| T::default());
        }
        let (taken, length) = take(&mut state);
        self.refund(&mut state);
        self.writer.clear(length);
        self.reader.count_received(length);
        // A writer is woken when half is free, not for each byte: it then has something worth writing to do. Nobody
        // can be stuck by this, for a reader that waits has emptied the ring before.
        let woken = if state.len <= self.capacity / 2 {
            state.writers.take()
        } else {
            WakerSet::default()
        };
        drop(state);
        woken.wake();
        Ok(taken)
    }

    /// Gives back what was paid for bytes that are gone.
    fn refund(&self, state: &mut State) {
        let kept = state.paid.min(state.len);
        let gone = mem::replace(&mut state.paid, kept) - kept;
        if let (1.., Some(payer)) = (gone, self.payer.get()) {
            payer.give_back(gone);
        }
    }

    /// Goes to another phase by `change`, which may refuse, and wakes everybody if it did.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let mut state = lock(&self.state);
        if !change(&mut state) {
            return;
        }
        let (readers, writers) = (state.readers.take(), state.writers.take());
        drop(state);
        readers.wake();
        writers.wake();
    }

    fn finish(&self) {
        self.change(|state| {
            let open = state.phase == Phase::Open;
            if open {
                state.phase = Phase::Finished;
            }
            open
        });
    }

    /// The reader wants no more. Returns whether there was anything that it had not read.
    fn deafen(&self) -> bool {
        let mut lost = 0;
        self.change(|state| {
            lost = state.clear();
            self.refund(state);
            // If the writer has finished, what is left of the direction is the same either way.
            let hearing = state.phase == Phase::Open;
            if hearing {
                state.phase = Phase::Deaf;
            }
            hearing
        });
        self.writer.clear(lost);
        lost > 0
    }

    fn reset(&self) {
        self.change(|state| {
            let alive = state.phase != Phase::Reset;
            state.phase = Phase::Reset;
            alive
        });
    }

    fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, |state| state.len > 0, |state| &mut state.readers)
    }

    fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, |state| self.room(state) > 0, |state| &mut state.writers)
    }

    fn poll(
        &self,
        cx: &Context<'_>,
        ready: impl FnOnce(&State) -> bool,
        waiters: impl FnOnce(&mut State) -> &mut WakerSet,
    ) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.phase != Phase::Open || ready(&state) {
            return Poll::Ready(());
        }
        let displaced = waiters(&mut state).add(cx.waker());
        drop(state);
        if let Some(waker) = displaced {
            waker.wake();
        }
        Poll::Pending
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(std::sync::PoisonError::into_inner);
        self.writer.clear(state.len);
        if let (1.., Some(payer)) = (state.paid, self.payer.get()) {
            payer.give_back(state.paid);
        }
    }
}

/// Both directions of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    rings: [Ring; 2],
}

impl Connection {
    /// Cuts both directions: everybody on either side gets `ConnectionReset`.
    pub(crate) fn reset(&self) {
        for ring in &self.rings {
            ring.reset();
        }
    }
}

/// One end of a connection. Dropping it closes the connection: in good order if everything that arrived was read, by a
/// reset if not.
#[derive(Debug)]
pub(crate) struct End {
    connection: Arc<Connection>,
    side: usize,
}

/// Makes a connection, each direction of which buffers `capacity` bytes. The first end is booked on the first account.
pub(crate) fn pair(capacity: usize, first: &Arc<Account>, second: &Arc<Account>) -> (End, End) {
    let there = Ring::new(capacity, first.clone(), second.clone());
    let back = Ring::new(capacity, second.clone(), first.clone());
    let connection = Arc::new(Connection {
        rings: [there, back],
    });
    (
        End {
            connection: connection.clone(),
            side: 0,
        },
        End {
            connection,
            side: 1,
        },
    )
}

impl End {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// See [`Stream::charge_to`](crate::Stream::charge_to).
    pub(crate) fn charge_to(&self, payer: Arc<dyn Payer>) {
        let _ = self.outgoing().payer.set(payer);
    }

    fn outgoing(&self) -> &Ring {
        &self.connection.rings[self.side]
    }

    fn incoming(&self) -> &Ring {
        &self.connection.rings[1 - self.side]
    }

    /// See [`Stream::try_read`](crate::Stream::try_read).
    pub(crate) fn read(&self, max: usize) -> io::Result<Bytes> {
        if max == 0 {
            return Ok(Bytes::new());
        }
        self.incoming().read(|state| {
            let chunk = state.pop(max);
            let length = chunk.len();
            (chunk, length)
        })
    }

    /// See [`Stream::try_read_into`](crate::Stream::try_read_into).
    pub(crate) fn read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.incoming().read(|state| {
            let length = state.fill(buffer);
            (length, length)
        })
    }

    /// See [`Stream::try_write`](crate::Stream::try_write).
    pub(crate) fn write(&self, data: &mut Bytes) -> io::Result<usize> {
        self.outgoing().write(data.len(), |state, length| {
            state.push(data.split_to(length));
        })
    }

    /// See [`Stream::try_write_from`](crate::Stream::try_write_from).
    pub(crate) fn write_from(&self, data: &[u8]) -> io::Result<usize> {
        self.outgoing()
            .write(data.len(), |state, length| state.append(&data[..length]))
    }

    /// Bytes that a write would take now.
    pub(crate) fn room(&self) -> io::Result<usize> {
        let ring = self.outgoing();
        let state = lock(&ring.state);
        state.check_write()?;
        Ok(ring.room(&state))
    }

    pub(crate) fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.incoming().poll_read_ready(cx)
    }

    pub(crate) fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.outgoing().poll_write_ready(cx)
    }

    pub(crate) fn shutdown_write(&self) {
        self.outgoing().finish();
    }

    pub(crate) fn shutdown_read(&self) {
        self.incoming().deafen();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.incoming().deafen() {
            self.connection.reset();
        } else {
            self.outgoing().finish();
        }
    }
}

#[cfg(test)]
mod tests;
