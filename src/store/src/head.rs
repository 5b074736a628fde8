//! How watchers learn that there is something new.

use tokio::sync::watch;

use crate::Revision;

/// What a store tells its watchers. Events up to `revision` can be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) closed: bool,
}

/// The newest published revision, and who waits for the next.
#[derive(Debug)]
pub(crate) struct Head(watch::Sender<State>);

impl Head {
    pub(crate) fn new(revision: Revision) -> Self {
        Self(watch::Sender::new(State {
            revision,
            closed: false,
        }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Publishes `revision`. Two publishers may come here in any order: the head never moves back.
    pub(crate) fn advance(&self, revision: Revision) {
        self.0.send_if_modified(|state| {
            let newer = revision > state.revision;
            state.revision = state.revision.max(revision);
            newer
        });
    }

    /// Lets watchers end once they have seen everything.
    pub(crate) fn close(&self) {
        self.0.send_modify(|state| state.closed = true);
    }
}
