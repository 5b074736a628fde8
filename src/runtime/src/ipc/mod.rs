//! What processes of a pod make to talk to each other without a network: message queues, semaphores and shared memory, each by a name,
//! all within bounds, and gone with the pod.
//!
//! [`Ipc`] is a pod's. Guests reach it by `vaquita:ipc`: components by [`host_calls`](crate::host_calls), core modules by
//! [`preview1`](crate::preview1). Whoever waits does so as a task, never on a thread of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;

use crate::budget::{self, Purse};

mod memory;
mod queue;
mod semaphore;
#[cfg(test)]
mod tests;

pub(crate) use memory::{Operation, Segment, Waitable};
pub(crate) use queue::{Attributes, Message, Queue};
pub(crate) use semaphore::Semaphore;

/// Bounds of what the processes of a pod may make together. What goes beyond one is refused with an error that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IpcLimits {
    /// Message queues. Default: 64.
    pub queues: usize,
    /// The most messages that one queue may be made for. Default: 1024.
    pub messages: usize,
    /// The longest message that a queue may be made for, in bytes. Default: 1 MiB.
    pub message_size: usize,
    /// Bytes of all shared memories, and of all messages that wait, together. Default: 64 MiB.
    pub bytes: u64,
    /// Shared memories. Default: 64.
    pub memories: usize,
    /// Semaphores. Default: 256.
    pub semaphores: usize,
}

impl Default for IpcLimits {
    fn default() -> Self {
        Self {
            queues: 64,
            messages: 1024,
            message_size: 1 << 20,
            bytes: 64 << 20,
            memories: 64,
            semaphores: 256,
        }
    }
}

/// Why something can't be done. Each is what `vaquita:ipc` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum IpcError {
    #[error("nothing has that name")]
    NoEntry,
    #[error("something has that name")]
    Exist,
    #[error("an argument is out of its range")]
    Invalid,
    #[error("it would have to wait")]
    WouldBlock,
    #[error("the time is over")]
    TimedOut,
    #[error("the message is too long for the queue")]
    MessageTooLong,
    #[error("the pod may not have more of these")]
    TooMany,
    #[error("the pod has no room for that many bytes")]
    InsufficientMemory,
    #[error("the semaphore can't hold that")]
    Overflow,
    #[error("beyond the memory's end, or not at a multiple of the width")]
    OutOfBounds,
}

/// The longest name, in bytes.
const LONGEST_NAME: usize = 255;

/// How something is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenHow {
    pub(crate) create: bool,
    pub(crate) exclusive: bool,
}

/// What the processes of one pod share.
pub(crate) struct Ipc {
    limits: IpcLimits,
    engine: wasmtime::Engine,
    bytes: Arc<AtomicU64>,
    queues: Named<Queue>,
    semaphores: Named<Semaphore>,
    memories: Named<Segment>,
}

impl Ipc {
    pub(crate) fn new(limits: IpcLimits, engine: wasmtime::Engine) -> Self {
        Self {
            queues: Named::new(limits.queues),
            semaphores: Named::new(limits.semaphores),
            memories: Named::new(limits.memories),
            bytes: Arc::default(),
            limits,
            engine,
        }
    }

    pub(crate) fn queue(
        &self,
        name: &str,
        how: OpenHow,
        attributes: Attributes,
        purse: &Purse,
    ) -> Result<Arc<Queue>, IpcError> {
        self.queues.open(name, how, |place| {
            let most = usize::try_from(attributes.max_messages).unwrap_or(usize::MAX);
            let size = usize::try_from(attributes.max_message_size).unwrap_or(usize::MAX);
            if most == 0
                || size == 0
                || most > self.limits.messages
                || size > self.limits.message_size
            {
                return Err(IpcError::Invalid);
            }
            let bytes = attributes.bytes();
            Ok(Queue::new(attributes, self.charge(bytes, purse)?, place))
        })
    }

    pub(crate) fn semaphore(
        &self,
        name: &str,
        how: OpenHow,
        value: u32,
    ) -> Result<Arc<Semaphore>, IpcError> {
        self.semaphores
            .open(name, how, |place| Semaphore::new(value, place))
    }

    pub(crate) fn memory(
        &self,
        name: &str,
        how: OpenHow,
        size: u64,
        purse: &Purse,
    ) -> Result<Arc<Segment>, IpcError> {
        self.memories.open(name, how, |place| {
            let pages = memory::pages(size)?;
            let charge = self.charge(u64::from(pages) * memory::PAGE, purse)?;
            Segment::new(&self.engine, pages, charge, place)
        })
    }

    pub(crate) fn queues(&self) -> &Named<Queue> {
        &self.queues
    }

    pub(crate) fn semaphores(&self) -> &Named<Semaphore> {
        &self.semaphores
    }

    pub(crate) fn memories(&self) -> &Named<Segment> {
        &self.memories
    }

    /// Charges the pod, and the process that makes it.
    fn charge(&self, bytes: u64, purse: &Purse) -> Result<Charge, IpcError> {
        let more = |used: u64| {
            used.checked_add(bytes)
                .filter(|used| *used <= self.limits.bytes)
        };
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| IpcError::InsufficientMemory)?;
        // Made at once, so that it is given back if the process has no room.
        let mut charge = Charge {
            used: Arc::clone(&self.bytes),
            bytes,
            maker: None,
        };
        let maker = purse.charge(bytes);
        charge.maker = Some(maker.ok_or(IpcError::InsufficientMemory)?);
        Ok(charge)
    }
}

/// Bytes of a pod's, given back when it is dropped. They are those of the process that asked for them, too, as in a kernel:
/// what it made and others still use is its own even when it has ended.
#[derive(Debug)]
pub(crate) struct Charge {
    used: Arc<AtomicU64>,
    bytes: u64,
    maker: Option<budget::Charge>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.maker = None;
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A place among so many, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of one kind, by name. What has lost its name counts as long as somebody has it open.
#[derive(Debug)]
pub(crate) struct Named<T> {
    most: usize,
    count: Arc<AtomicUsize>,
    all: Mutex<BTreeMap<String, Arc<T>>>,
}

impl<T> Named<T> {
    fn new(most: usize) -> Self {
        Self {
            most,
            count: Arc::default(),
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<T>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(
        &self,
        name: &str,
        how: OpenHow,
        make: impl FnOnce(Place) -> Result<T, IpcError>,
    ) -> Result<Arc<T>, IpcError> {
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
            return Err(IpcError::Invalid);
        }
        let mut all = self.all();
        if let Some(found) = all.get(name) {
            if how.create && how.exclusive {
                return Err(IpcError::Exist);
            }
            return Ok(Arc::clone(found));
        }
        if !how.create {
            return Err(IpcError::NoEntry);
        }
        let new = Arc::new(make(self.place()?)?);
        all.insert(name.to_owned(), Arc::clone(&new));
        Ok(new)
    }

    fn place(&self) -> Result<Place, IpcError> {
        let more = |count: usize| count.checked_add(1).filter(|count| *count <= self.most);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| IpcError::TooMany)?;
        Ok(Place(Arc::clone(&self.count)))
    }

    pub(crate) fn unlink(&self, name: &str) -> Result<(), IpcError> {
        self.all().remove(name).map(drop).ok_or(IpcError::NoEntry)
    }

    /// Those that have a name, in its order.
    pub(crate) fn list(&self) -> Vec<(String, Arc<T>)> {
        let all = self.all();
        let each = all
            .iter()
            .map(|(name, one)| (name.clone(), Arc::clone(one)));
        each.collect()
    }
}

/// Waits until something can be done, and does it. `changed` tells when it is worth another try.
async fn when_possible<T>(
    changed: &Notify,
    mut attempt: impl FnMut() -> Result<T, IpcError>,
) -> Result<T, IpcError> {
    loop {
        let change = changed.notified();
        tokio::pin!(change);
        // From here on no change is missed.
        change.as_mut().enable();
        match attempt() {
            Err(IpcError::WouldBlock) => change.await,
            done => return done,
        }
    }
}

/// Does something for so long at the most, if there is a bound.
async fn within<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, IpcError>>,
) -> Result<T, IpcError> {
    match timeout {
        None => work.await,
        Some(timeout) => tokio::time::timeout(timeout, work)
            .await
            .unwrap_or(Err(IpcError::TimedOut)),
    }
}
