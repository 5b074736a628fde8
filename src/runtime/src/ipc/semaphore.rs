//! Semaphores.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{IpcError, Place, when_possible, within};

/// What a semaphore can hold, as POSIX's `SEM_VALUE_MAX`.
const LARGEST: u32 = i32::MAX.cast_unsigned();

/// A semaphore.
#[derive(Debug)]
pub(crate) struct Semaphore {
    value: Mutex<u32>,
    changed: Notify,
    _place: Place,
}

impl Semaphore {
    pub(super) fn new(value: u32, place: Place) -> Result<Self, IpcError> {
        if value > LARGEST {
            return Err(IpcError::Invalid);
        }
        Ok(Self {
            value: Mutex::new(value),
            changed: Notify::new(),
            _place: place,
        })
    }

    fn locked(&self) -> MutexGuard<'_, u32> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn value(&self) -> u32 {
        *self.locked()
    }

    pub(crate) fn try_acquire(&self) -> Result<(), IpcError> {
        let mut value = self.locked();
        *value = value.checked_sub(1).ok_or(IpcError::WouldBlock)?;
        Ok(())
    }

    pub(crate) async fn acquire(&self, timeout: Option<Duration>) -> Result<(), IpcError> {
        let acquiring = when_possible(&self.changed, || self.try_acquire());
        within(timeout, acquiring).await
    }

    pub(crate) fn release(&self, count: u32) -> Result<(), IpcError> {
        let mut value = self.locked();
        let more = value.checked_add(count).filter(|value| *value <= LARGEST);
        *value = more.ok_or(IpcError::Overflow)?;
        drop(value);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Waits until there is one to be taken.
    pub(crate) async fn acquirable(&self) {
        let one = || {
            if self.value() > 0 {
                Ok(())
            } else {
                Err(IpcError::WouldBlock)
            }
        };
        let _ = when_possible(&self.changed, one).await;
    }
}
