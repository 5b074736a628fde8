//! `poll_oneoff` for programs that wait for sockets.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, Sleep};
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;

use super::descriptors::Descriptors;
use super::memory::{Memory, Pointer};
use crate::state::CoreState;
use crate::stdio::Input;

/// Sizes of a subscription and of an event.
const SUBSCRIPTION: u32 = 48;
const EVENT: u32 = 32;

/// The most that can be waited for at once.
const MOST: u32 = 32 << 10;

/// Where a guest's call has its arguments.
pub(super) struct Request {
    pub(super) subscriptions: Pointer,
    pub(super) events: Pointer,
    pub(super) count: u32,
    pub(super) written: Pointer,
}

struct Subscription {
    userdata: [u8; 8],
    kind: u8,
    /// A clock, or a file descriptor.
    what: u32,
    timeout: u64,
    absolute: bool,
}

const CLOCK: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;

/// What one subscription waits for.
enum Wait {
    Until(Pin<Box<Sleep>>),
    Input(Input),
    Readable(u32),
    Writable(u32),
    /// Nothing: it is as ready as it gets.
    Nothing(Errno),
}

/// An event to be told.
struct Event {
    subscription: usize,
    error: Errno,
}

impl Request {
    fn read(&self, memory: &Memory<'_>, index: u32) -> Result<Subscription, Errno> {
        let bytes = memory
            .read::<{ SUBSCRIPTION as usize }>(self.subscriptions.element(index, SUBSCRIPTION)?)?;
        let part = |from: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[from..from + 8]);
            part
        };
        let [a, b, c, d, ..] = part(16);
        Ok(Subscription {
            userdata: part(0),
            kind: bytes[8],
            what: u32::from_le_bytes([a, b, c, d]),
            timeout: u64::from_le_bytes(part(24)),
            absolute: bytes[40] & 1 == 1,
        })
    }
}

/// Whether any of it is for us. If the arguments are wrong, the original may say so.
pub(super) fn concerns_sockets(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    request: &Request,
) -> bool {
    let table = descriptors.lock();
    (0..request.count.min(MOST)).any(|index| {
        request.read(memory, index).is_ok_and(|subscription| {
            subscription.kind != CLOCK && table.contains(subscription.what)
        })
    })
}

/// Waits until at least one subscription has something to tell, and tells all that have.
pub(super) async fn poll(
    state: &mut CoreState,
    mut memory: Memory<'_>,
    request: &Request,
) -> Result<(), Errno> {
    if request.count > MOST {
        return Err(Errno::Inval);
    }
    let read = (0..request.count).map(|index| request.read(&memory, index));
    let subscriptions: Vec<_> = read.collect::<Result<_, _>>()?;
    let mut waits = Vec::with_capacity(subscriptions.len());
    for subscription in &subscriptions {
        waits.push(wait_of(state, subscription)?);
    }
    let descriptors = &state.descriptors;
    let events = poll_fn(|context| {
        let events: Vec<_> = waits
            .iter_mut()
            .enumerate()
            .filter_map(|(subscription, wait)| {
                let error = check(descriptors, wait, context)?;
                Some(Event {
                    subscription,
                    error,
                })
            })
            .collect();
        if events.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(events)
        }
    })
    .await;
    let mut count = 0;
    for event in &events {
        let at = request.events.element(count, EVENT)?;
        memory.write(at, &encode(&subscriptions[event.subscription], event.error))?;
        count += 1;
    }
    memory.write_u32(request.written, count)
}

fn wait_of(state: &mut CoreState, subscription: &Subscription) -> Result<Wait, Errno> {
    let fd = subscription.what;
    Ok(match subscription.kind {
        CLOCK => Wait::Until(Box::pin(tokio::time::sleep_until(deadline(
            state,
            subscription,
        )?))),
        READ | WRITE if state.descriptors.lock().is_file(fd) => Wait::Nothing(Errno::Success),
        READ if state.descriptors.lock().contains(fd) => {
            match state.descriptors.lock().listening(fd) {
                Ok(_) => Wait::Readable(fd),
                Err(error) => Wait::Nothing(error),
            }
        }
        WRITE if state.descriptors.lock().contains(fd) => Wait::Writable(fd),
        READ if fd == 0 => Wait::Input(state.stdin.clone()),
        // Output can wait at the write.
        READ | WRITE if fd <= 2 => Wait::Nothing(Errno::Success),
        READ | WRITE => Wait::Nothing(Errno::Badf),
        _ => return Err(Errno::Inval),
    })
}

fn deadline(state: &mut CoreState, subscription: &Subscription) -> Result<Instant, Errno> {
    let timeout = Duration::from_nanos(subscription.timeout);
    let rest = match (subscription.what, subscription.absolute) {
        (0 | 1, false) => timeout,
        (0, true) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            timeout.saturating_sub(now)
        }
        (1, true) => {
            let now =
                monotonic_clock::Host::now(&mut state.wasi.clocks()).map_err(|_| Errno::Io)?;
            timeout.saturating_sub(Duration::from_nanos(now))
        }
        _ => return Err(Errno::Inval),
    };
    let now = Instant::now();
    // Further away than time reaches: a century is as good.
    Ok(now
        .checked_add(rest)
        .unwrap_or(now + Duration::from_hours(24 * 365 * 100)))
}

fn check(descriptors: &Descriptors, wait: &mut Wait, context: &mut Context<'_>) -> Option<Errno> {
    let ready = match wait {
        Wait::Nothing(error) => return Some(*error),
        Wait::Until(sleep) => sleep.as_mut().poll(context),
        Wait::Input(input) => input.poll_ready(context),
        Wait::Readable(fd) => match descriptors.lock().get(fd.cast_signed()) {
            Some(socket) => socket.poll_readable(context),
            None => return Some(Errno::Badf),
        },
        Wait::Writable(fd) => match descriptors.lock().get(fd.cast_signed()) {
            Some(socket) => socket.poll_writable(context),
            None => return Some(Errno::Badf),
        },
    };
    ready.is_ready().then_some(Errno::Success)
}

fn encode(subscription: &Subscription, error: Errno) -> [u8; EVENT as usize] {
    let mut event = [0; EVENT as usize];
    event[0..8].copy_from_slice(&subscription.userdata);
    event[8..10].copy_from_slice(&u16::from(error).to_le_bytes());
    event[10] = subscription.kind;
    if subscription.kind != CLOCK {
        // At least this many bytes.
        event[16] = 1;
    }
    event
}
