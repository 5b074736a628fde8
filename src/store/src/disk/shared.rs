//! What the writer and everybody else have in common.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{error::DiskError, queue::Queue, snapshot::Snapshot};
use crate::{
    BackendError, Event, ReadError, Revision, WatchError,
    head::Head,
    watch::{Chunk, Feed},
};

/// Shared by the handle, the writer and all watches.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) head: Head,
    view: Mutex<View>,
    recent: Mutex<Recent>,
}

/// What readers see.
struct View {
    revision: Revision,
    compacted: Revision,
    reading: Reading,
}

/// Whether there is something to read.
pub(super) enum Reading {
    Open(Arc<Snapshot>),
    /// The storage failed. The writer tries to open it again when somebody writes.
    Failed(BackendError),
    Closed,
}

/// Why there is nothing to read.
pub(super) enum Unreadable {
    Closed,
    Failed(BackendError),
}

impl From<DiskError> for Unreadable {
    fn from(error: DiskError) -> Self {
        if error.is_closed() {
            Self::Closed
        } else {
            Self::Failed(error.shared())
        }
    }
}

impl From<Unreadable> for ReadError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Closed => Self::Closed,
            Unreadable::Failed(error) => Self::Backend(error),
        }
    }
}

impl From<Unreadable> for WatchError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Closed => Self::Closed,
            Unreadable::Failed(error) => Self::Backend(error),
        }
    }
}

impl Shared {
    pub(super) fn new(queue: Queue, snapshot: Snapshot, recent_bytes: usize) -> Self {
        let position = snapshot.position;
        Self {
            queue,
            head: Head::new(position.revision),
            view: Mutex::new(View {
                revision: position.revision,
                compacted: position.compacted,
                reading: Reading::Open(Arc::new(snapshot)),
            }),
            recent: Mutex::new(Recent {
                events: VecDeque::new(),
                bytes: 0,
                max_bytes: recent_bytes,
            }),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.view().revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.view().compacted
    }

    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Unreadable> {
        match &self.view().reading {
            Reading::Open(snapshot) => Ok(snapshot.clone()),
            Reading::Failed(error) => Err(Unreadable::Failed(error.clone())),
            Reading::Closed => Err(Unreadable::Closed),
        }
    }

    /// Reads from `snapshot` on a thread that may block: for what can touch many pages.
    pub(super) async fn read_blocking<T: Send + 'static>(
        snapshot: Arc<Snapshot>,
        read: impl FnOnce(&Snapshot) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, Unreadable> {
        match tokio::task::spawn_blocking(move || read(&snapshot)).await {
            Ok(result) => result.map_err(Unreadable::from),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends before the read has begun.
                Err(_) => Err(Unreadable::Closed),
            },
        }
    }

    /// Lets readers see the state that the writer stands at, or learn that there is none.
    pub(super) fn show(&self, revision: Revision, compacted: Revision, reading: Reading) {
        let mut view = self.view();
        view.revision = revision;
        view.compacted = compacted;
        let old = mem::replace(&mut view.reading, reading);
        drop(view);
        // Gives its pages back to the database, which need not happen under the lock.
        drop(old);
    }

    /// Lets readers know that there is nothing to read.
    pub(super) fn hide(&self, reading: Reading) {
        let old = mem::replace(&mut self.view().reading, reading);
        drop(old);
    }

    /// Hands events to the watchers. Readers must see them already.
    pub(super) fn publish(&self, events: impl IntoIterator<Item = Event>, revision: Revision) {
        let mut recent = self.recent();
        for event in events {
            recent.push(event);
        }
        drop(recent);
        self.head.advance(revision);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Feed for Shared {
    async fn events(&self, prefix: &[u8], after: Revision) -> Result<Chunk, WatchError> {
        if let Some(chunk) = self.recent().read(prefix, after) {
            return Ok(chunk);
        }
        let snapshot = self.snapshot()?;
        let compacted = snapshot.position.compacted;
        if after < compacted {
            return Err(WatchError::Compacted {
                requested: after,
                compacted,
            });
        }
        let prefix = prefix.to_vec();
        Ok(Self::read_blocking(snapshot, move |snapshot| snapshot.events(&prefix, after)).await?)
    }
}

/// The newest events, once for all watchers that keep up.
struct Recent {
    /// Without a gap.
    events: VecDeque<Event>,
    bytes: usize,
    max_bytes: usize,
}

/// What an event takes beyond its keys and values.
const EVENT_BYTES: usize = size_of::<Event>();

impl Recent {
    fn push(&mut self, event: Event) {
        self.bytes += event.size() + EVENT_BYTES;
        self.events.push_back(event);
        while self.bytes > self.max_bytes
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.size() + EVENT_BYTES;
        }
    }

    /// The events after `after`; `None` if some of them are here no more.
    fn read(&self, prefix: &[u8], after: Revision) -> Option<Chunk> {
        let oldest = self.events.front()?.kv.mod_revision;
        let skip = usize::try_from((after + 1).checked_sub(oldest)?).ok()?;
        (skip < self.events.len()).then(|| Chunk::filter(self.events.range(skip..), prefix, after))
    }
}
