//! Watching: a cursor of one's own over events that the store keeps once for all.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    Stream,
    stream::{self, BoxStream, StreamExt as _},
};
use tokio::sync::watch;

use crate::{
    Event, Revision, WatchError,
    head::{Head, State},
};

/// Most events in one batch.
pub(crate) const BATCH_EVENTS: usize = 1024;

/// A stream of changes in the order of their revisions, from [`Store::watch`](crate::Store::watch).
///
/// Each item is a batch of at least one event and at most about a thousand; a revision is never split between two
/// batches. After an error the stream ends. It also ends when the store is closed: without an error if everything
/// that happened before has been taken, and perhaps with [`WatchError::Closed`] if not.
///
/// Dropping the stream ends the watch.
pub struct Watch(BoxStream<'static, Result<Vec<Event>, WatchError>>);

impl Stream for Watch {
    type Item = Result<Vec<Event>, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Where a watcher's events come from.
#[async_trait]
pub(crate) trait Feed: Send + Sync + 'static {
    /// The next events after revision `after`, of keys that begin with `prefix`. Called only when the head is beyond
    /// `after`.
    async fn events(&self, prefix: &[u8], after: Revision) -> Result<Chunk, WatchError>;
}

/// A stretch of history.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The events in it that a watcher wants; at most [`BATCH_EVENTS`], perhaps none.
    pub(crate) events: Vec<Event>,
    /// The last revision of the stretch: beyond the one that was asked for.
    pub(crate) through: Revision,
}

impl Chunk {
    /// Takes from `events`, which follow each other without a gap after `after`, those that begin with `prefix`.
    pub(crate) fn filter<'a>(
        events: impl Iterator<Item = &'a Event>,
        prefix: &[u8],
        after: Revision,
    ) -> Self {
        let mut chunk = Self {
            events: Vec::new(),
            through: after,
        };
        for event in events {
            chunk.through = event.kv.mod_revision;
            if event.kv.key.starts_with(prefix) {
                chunk.events.push(event.clone());
                if chunk.events.len() == BATCH_EVENTS {
                    break;
                }
            }
        }
        chunk
    }
}

/// Starts a watch over `feed`.
pub(crate) fn watch(feed: Arc<dyn Feed>, head: &Head, prefix: Bytes, after: Revision) -> Watch {
    let cursor = Cursor {
        feed,
        head: head.subscribe(),
        prefix,
        seen: after,
    };
    let batches = stream::unfold(Some(cursor), |cursor| async {
        let mut cursor = cursor?;
        match cursor.next().await {
            Ok(Some(events)) => Some((Ok(events), Some(cursor))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Watch(batches.boxed())
}

struct Cursor {
    feed: Arc<dyn Feed>,
    head: watch::Receiver<State>,
    prefix: Bytes,
    seen: Revision,
}

impl Cursor {
    /// The next batch; `None` when the store is closed.
    async fn next(&mut self) -> Result<Option<Vec<Event>>, WatchError> {
        loop {
            let state = *self.head.borrow_and_update();
            if self.seen < state.revision {
                let chunk = self.feed.events(&self.prefix, self.seen).await?;
                self.seen = chunk.through;
                if !chunk.events.is_empty() {
                    return Ok(Some(chunk.events));
                }
                // A long stretch without an event that matches must not keep the thread.
                tokio::task::consume_budget().await;
            } else if state.closed || self.head.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}
