//! Message queues.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Charge, IpcError, Place, when_possible, within};

/// How large a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) max_messages: u32,
    pub(crate) max_message_size: u32,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            max_messages: 10,
            max_message_size: 8 << 10,
        }
    }
}

impl Attributes {
    /// What it takes at the most: its messages and where they are kept.
    pub(super) fn bytes(self) -> u64 {
        const KEPT_IN: u64 = 64;
        u64::from(self.max_messages) * (u64::from(self.max_message_size) + KEPT_IN)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) data: Bytes,
    pub(crate) priority: u32,
}

/// A message queue.
#[derive(Debug)]
pub(crate) struct Queue {
    attributes: Attributes,
    waiting: Mutex<Waiting>,
    /// Told of each message that comes or goes.
    changed: Notify,
    _charge: Charge,
    _place: Place,
}

/// The messages in the order in which they are received.
#[derive(Debug, Default)]
struct Waiting {
    messages: BTreeMap<(Reverse<u32>, u64), Bytes>,
    sent: u64,
}

impl Queue {
    pub(super) fn new(attributes: Attributes, charge: Charge, place: Place) -> Self {
        Self {
            attributes,
            waiting: Mutex::default(),
            changed: Notify::new(),
            _charge: charge,
            _place: place,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// How many messages wait.
    pub(crate) fn length(&self) -> u32 {
        u32::try_from(self.waiting().messages.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn try_send(&self, message: &Message) -> Result<(), IpcError> {
        if message.data.len() > self.attributes.max_message_size as usize {
            return Err(IpcError::MessageTooLong);
        }
        let mut waiting = self.waiting();
        if waiting.messages.len() >= self.attributes.max_messages as usize {
            return Err(IpcError::WouldBlock);
        }
        waiting.sent += 1;
        let key = (Reverse(message.priority), waiting.sent);
        waiting.messages.insert(key, message.data.clone());
        drop(waiting);
        self.changed.notify_waiters();
        Ok(())
    }

    pub(crate) fn try_receive(&self) -> Result<Message, IpcError> {
        let first = self.waiting().messages.pop_first();
        let ((Reverse(priority), _), data) = first.ok_or(IpcError::WouldBlock)?;
        self.changed.notify_waiters();
        Ok(Message { data, priority })
    }

    pub(crate) async fn send(
        &self,
        message: Message,
        timeout: Option<Duration>,
    ) -> Result<(), IpcError> {
        let sending = when_possible(&self.changed, || self.try_send(&message));
        within(timeout, sending).await
    }

    pub(crate) async fn receive(&self, timeout: Option<Duration>) -> Result<Message, IpcError> {
        let receiving = when_possible(&self.changed, || self.try_receive());
        within(timeout, receiving).await
    }

    /// Waits until there is room.
    pub(crate) async fn sendable(&self) {
        let room = || {
            if self.waiting().messages.len() < self.attributes.max_messages as usize {
                Ok(())
            } else {
                Err(IpcError::WouldBlock)
            }
        };
        let _ = when_possible(&self.changed, room).await;
    }

    /// Waits until there is a message.
    pub(crate) async fn receivable(&self) {
        let message = || {
            if self.waiting().messages.is_empty() {
                Err(IpcError::WouldBlock)
            } else {
                Ok(())
            }
        };
        let _ = when_possible(&self.changed, message).await;
    }
}
