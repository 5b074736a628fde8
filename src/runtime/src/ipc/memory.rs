//! Shared memory: the pod's, by names, and what it has in common with that of guests' threads.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use wasmtime::{MemoryType, SharedMemory};

use super::{Charge, IpcError, Place, within};
use crate::cells;

/// WebAssembly's pages, of which a memory has whole ones.
pub(super) const PAGE: u64 = 64 << 10;

/// The most that is copied at once.
const LARGEST_COPY: u64 = 1 << 20;

/// The most who wait in one memory at once.
const MOST_WAITING: usize = 4096;

/// How many pages so many bytes take.
pub(super) fn pages(size: u64) -> Result<u32, IpcError> {
    if size == 0 {
        return Err(IpcError::Invalid);
    }
    u32::try_from(size.div_ceil(PAGE)).map_err(|_| IpcError::InsufficientMemory)
}

/// What becomes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Exchange,
}

/// A shared memory of a pod's, whose size never changes.
pub(crate) struct Segment {
    memory: Arc<Waitable>,
    _charge: Charge,
    _place: Place,
}

/// A WebAssembly memory that several instances have, and who waits in it.
pub(crate) struct Waitable {
    memory: SharedMemory,
    /// Who waits, by where. Locked while a number is compared and its waiter is added, so that no wake-up is missed.
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

macro_rules! atomically {
    ($self:ident, $offset:ident, $width:ident, |$number:ident: $type:ident| $answer:expr) => {
        match $width {
            1 => atomically!(@ $self, $offset, $number, AtomicU8, u8, $type, $answer),
            2 => atomically!(@ $self, $offset, $number, AtomicU16, u16, $type, $answer),
            4 => atomically!(@ $self, $offset, $number, AtomicU32, u32, $type, $answer),
            8 => atomically!(@ $self, $offset, $number, AtomicU64, u64, $type, $answer),
            _ => Err(IpcError::Invalid),
        }
    };
    (@ $self:ident, $offset:ident, $number:ident, $atomic:ident, $plain:ident, $type:ident, $answer:expr) => {{
        type $type = $plain;
        let at = $self.place($offset, size_of::<$plain>())?;
        // SAFETY: within the memory and aligned, which `place` has checked; the memory lives as long as `self`, and all that
        // accesses it does so atomically or is WebAssembly code, whose accesses are as good.
        let $number = unsafe { $atomic::from_ptr(at.get().cast()) };
        Ok(u64::from($answer))
    }};
}

impl Segment {
    pub(super) fn new(
        engine: &wasmtime::Engine,
        pages: u32,
        charge: Charge,
        place: Place,
    ) -> Result<Self, IpcError> {
        let memory = Waitable::new(engine, MemoryType::shared(pages, pages));
        Ok(Self {
            memory: Arc::new(memory.map_err(|_| IpcError::InsufficientMemory)?),
            _charge: charge,
            _place: place,
        })
    }

    /// It counts as the pod's only as long as the segment itself is kept.
    pub(crate) fn memory(&self) -> &Arc<Waitable> {
        &self.memory
    }
}

impl std::ops::Deref for Segment {
    type Target = Waitable;

    fn deref(&self) -> &Waitable {
        &self.memory
    }
}

impl Waitable {
    pub(crate) fn new(engine: &wasmtime::Engine, kind: MemoryType) -> wasmtime::Result<Self> {
        Ok(Self {
            memory: SharedMemory::new(engine, kind)?,
            waiting: Mutex::default(),
        })
    }

    /// As modules import it.
    pub(crate) fn shared(&self) -> &SharedMemory {
        &self.memory
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.memory.data_size() as u64
    }

    /// Where a number of that size is, if it may be there.
    fn place(&self, offset: u64, size: usize) -> Result<&UnsafeCell<u8>, IpcError> {
        let bytes = self.bytes(offset, size as u64)?;
        let first = bytes.first().ok_or(IpcError::OutOfBounds)?;
        // The memory begins at a page of the machine's.
        if first.get().addr().is_multiple_of(size) {
            Ok(first)
        } else {
            Err(IpcError::OutOfBounds)
        }
    }

    fn bytes(&self, offset: u64, length: u64) -> Result<&[UnsafeCell<u8>], IpcError> {
        let index = |at: u64| usize::try_from(at).map_err(|_| IpcError::OutOfBounds);
        let end = offset.checked_add(length).ok_or(IpcError::OutOfBounds)?;
        let range = index(offset)?..index(end)?;
        self.memory.data().get(range).ok_or(IpcError::OutOfBounds)
    }

    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, IpcError> {
        if length > LARGEST_COPY {
            return Err(IpcError::Invalid);
        }
        Ok(cells::read(self.bytes(offset, length)?))
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<(), IpcError> {
        cells::write(self.bytes(offset, data.len() as u64)?, data);
        Ok(())
    }

    pub(crate) fn load(&self, offset: u64, width: u8) -> Result<u64, IpcError> {
        atomically!(self, offset, width, |number: N| {
            N::from_le(number.load(Ordering::SeqCst))
        })
    }

    pub(crate) fn store(&self, offset: u64, width: u8, value: u64) -> Result<(), IpcError> {
        self.update(offset, width, Operation::Exchange, value)
            .map(drop)
    }

    /// Changes a number and gives what it was. Of the operand, as many bits count as the number has.
    pub(crate) fn update(
        &self,
        offset: u64,
        width: u8,
        operation: Operation,
        operand: u64,
    ) -> Result<u64, IpcError> {
        atomically!(self, offset, width, |number: N| {
            let operand = truncated::<N>(operand);
            let apply = |old: N| {
                let old = N::from_le(old);
                let new = match operation {
                    Operation::Add => old.wrapping_add(operand),
                    Operation::Sub => old.wrapping_sub(operand),
                    Operation::And => old & operand,
                    Operation::Or => old | operand,
                    Operation::Xor => old ^ operand,
                    Operation::Exchange => operand,
                };
                Some(new.to_le())
            };
            // It never refuses, so what it gives is the old value.
            let old = number.fetch_update(Ordering::SeqCst, Ordering::SeqCst, apply);
            N::from_le(old.unwrap_or_else(|old| old))
        })
    }

    /// Puts `new` in the place of `expected`, if that is there, and gives what was there.
    pub(crate) fn compare_exchange(
        &self,
        offset: u64,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Result<u64, IpcError> {
        atomically!(self, offset, width, |number: N| {
            let (expected, new) = (truncated::<N>(expected), truncated::<N>(new));
            let (expected, new) = (expected.to_le(), new.to_le());
            let old = number.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
            N::from_le(old.unwrap_or_else(|old| old))
        })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at an offset until somebody [notifies](Self::notify) it, unless something else than `expected` is there.
    pub(crate) async fn wait(
        &self,
        offset: u64,
        width: u8,
        expected: u64,
        timeout: Option<Duration>,
    ) -> Result<(), IpcError> {
        let woken = {
            let mut waiting = self.waiting();
            if self.load(offset, width)? != expected {
                return Err(IpcError::WouldBlock);
            }
            // Those who have gone are forgotten only here, so that they can't become more without a bound.
            waiting.retain(|_, here| {
                here.retain(|waiter| !waiter.is_closed());
                !here.is_empty()
            });
            if waiting.values().map(Vec::len).sum::<usize>() >= MOST_WAITING {
                return Err(IpcError::TooMany);
            }
            let (wake, woken) = oneshot::channel();
            waiting.entry(offset).or_default().push(wake);
            woken
        };
        let woken = async {
            woken.await.unwrap_or(());
            Ok(())
        };
        within(timeout, woken).await
    }

    /// Wakes at most so many who wait at an offset, those first who have waited longest.
    pub(crate) fn notify(&self, offset: u64, count: u32) -> Result<u32, IpcError> {
        self.bytes(offset, 1)?;
        let mut waiting = self.waiting();
        let Some(here) = waiting.remove(&offset) else {
            return Ok(0);
        };
        let mut woken = 0;
        let mut left = Vec::new();
        for waiter in here {
            if woken == count {
                left.push(waiter);
            } else if waiter.send(()).is_ok() {
                woken += 1;
            }
        }
        if !left.is_empty() {
            waiting.insert(offset, left);
        }
        Ok(woken)
    }
}

/// The bits of a number that a narrower one has.
fn truncated<N: Truncated>(number: u64) -> N {
    N::truncated(number)
}

trait Truncated {
    fn truncated(number: u64) -> Self;
}

macro_rules! truncates {
    ($($type:ident)*) => {
        $(impl Truncated for $type {
            #[allow(
                clippy::cast_possible_truncation,
                trivial_numeric_casts,
                reason = "that is what it is for"
            )]
            fn truncated(number: u64) -> Self {
                number as Self
            }
        })*
    };
}

truncates!(u8 u16 u32 u64);
