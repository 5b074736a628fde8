//! Which objects went, told by the garbage collector, who watches them all, to those who count them.

use std::sync::Arc;

use tokio::sync::broadcast;

/// How many departures a listener may be behind; after that it hears only that there were some.
const BACKLOG: usize = 1024;

/// Objects of a kind went from a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The group of their kind; empty for the core group.
    pub group: Arc<str>,
    /// Their resource, such as `configmaps`.
    pub plural: Arc<str>,
    /// Where they were. Nothing if that is not known any more: they went while nobody watched.
    pub namespace: Option<String>,
}

/// Tells departures to whoever listens. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Departures(broadcast::Sender<Departure>);

impl Default for Departures {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Departures {
    /// Tells it to all who listen, if anybody does.
    pub fn tell(&self, departure: Departure) {
        // An error says that nobody listens.
        let _ = self.0.send(departure);
    }

    /// Hears of all departures from now on.
    pub fn listen(&self) -> broadcast::Receiver<Departure> {
        self.0.subscribe()
    }
}
