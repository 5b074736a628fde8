//! The recent events of one resource, shared by all of its watchers.
//!
//! A watcher is a cursor: the revision that it has seen. It reads what came after, as far as it likes to go in one
//! turn; the log knows nothing of its readers. It is bounded by events and bytes; a reader whose cursor fell out of
//! it is told so, and goes to the store's history instead.

use std::{collections::VecDeque, sync::Arc};

use vaquita_store::Revision;

use super::entry::{Change, Entry};

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The new state; of a deletion the last state, with the deletion's revision.
    pub entry: Arc<Entry>,
    /// The state before, for selectors that an object enters or leaves.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// When it happened.
    pub fn revision(&self) -> Revision {
        self.entry.revision
    }
}

/// How much a log keeps.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Events, at most.
    pub events: usize,
    /// Bytes of their objects, at most.
    pub bytes: usize,
}

/// The cursor is older than what the log has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld;

/// The recent events of one resource, once for all its watchers.
#[derive(Debug)]
pub struct EventLog {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    window: Window,
    /// Every event after this revision is here.
    floor: Revision,
}

impl EventLog {
    /// An empty log of what happens after `floor`.
    pub fn new(floor: Revision, window: Window) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            window,
            floor,
        }
    }

    /// How much it keeps.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Adds an event, which is not older than the last one; drops the oldest if the window is full.
    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.entry.size();
        self.events.push_back(event);
        while self.events.len() > self.window.events
            || self.bytes > self.window.bytes && self.events.len() > 1
        {
            self.drop_oldest();
        }
    }

    /// Drops events up to and including `revision`.
    pub fn trim(&mut self, revision: Revision) {
        while self
            .events
            .front()
            .is_some_and(|event| event.revision() <= revision)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.entry.size();
            self.floor = event.revision();
        }
    }

    /// Up to `limit` events after `cursor`, oldest first.
    pub fn read(&self, cursor: Revision, limit: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        if cursor < self.floor {
            return Err(TooOld);
        }
        let start = self
            .events
            .partition_point(|event| event.revision() <= cursor);
        Ok(self.events.range(start..).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    fn event(revision: Revision) -> Arc<Event> {
        let object = json!({"metadata": {"name": "a"}});
        let stored = super::super::entry::encode(object.as_object().unwrap()).unwrap();
        let entry = Entry::from_stored(
            Bytes::from_static(b"k"),
            &stored,
            revision,
            Change::Modified,
        )
        .unwrap();
        Arc::new(Event {
            change: Change::Modified,
            entry: Arc::new(entry),
            previous: None,
        })
    }

    fn log(window: Window, revisions: impl IntoIterator<Item = Revision>) -> EventLog {
        let mut log = EventLog::new(1, window);
        revisions
            .into_iter()
            .for_each(|revision| log.push(event(revision)));
        log
    }

    fn read(log: &EventLog, cursor: Revision, limit: usize) -> Result<Vec<Revision>, TooOld> {
        log.read(cursor, limit)
            .map(|events| events.iter().map(|event| event.revision()).collect())
    }

    const WIDE: Window = Window {
        events: 100,
        bytes: 1 << 20,
    };

    #[test]
    fn a_cursor_reads_what_came_after_it() {
        let log = log(WIDE, [3, 5, 9]);
        assert_eq!(read(&log, 1, 10), Ok(vec![3, 5, 9]));
        assert_eq!(read(&log, 4, 10), Ok(vec![5, 9]));
        assert_eq!(read(&log, 3, 1), Ok(vec![5]));
        assert_eq!(read(&log, 9, 10), Ok(vec![]));
        assert_eq!(read(&log, 0, 10), Err(TooOld));
    }

    #[test]
    fn a_full_window_loses_the_oldest_and_says_so() {
        let log = log(
            Window {
                events: 2,
                bytes: 1 << 20,
            },
            [3, 5, 9],
        );
        assert_eq!(read(&log, 3, 10), Ok(vec![5, 9]));
        assert_eq!(read(&log, 2, 10), Err(TooOld));
    }

    #[test]
    fn bytes_bound_it_too_but_the_newest_stays() {
        let log = log(
            Window {
                events: 100,
                bytes: 1,
            },
            [3, 5],
        );
        assert_eq!(read(&log, 3, 10), Ok(vec![5]));
        assert_eq!(read(&log, 1, 10), Err(TooOld));
    }

    #[test]
    fn trimming_raises_the_floor() {
        let mut log = log(WIDE, [3, 5, 9]);
        log.trim(5);
        assert_eq!(read(&log, 4, 10), Err(TooOld));
        assert_eq!(read(&log, 5, 10), Ok(vec![9]));
    }
}
