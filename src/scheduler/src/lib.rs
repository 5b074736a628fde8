//! Assigns pods to nodes.
//!
//! One loop ([`run()`]) holds the whole picture and decides pod by pod; only the API calls that follow a decision run
//! beside it. The picture ([`cluster`]) is kept up by events, so that a decision costs a look at each node and none at
//! other pods. [`queue`] says which pod is next, [`filter`] which nodes can take it, [`score`] which of those is best,
//! [`bind`] tells the API server.

mod bind;
mod cluster;
mod filter;
mod pod;
mod queue;
mod resources;
mod run;
mod score;

pub use run::run;

/// The scheduler that takes care of pods which name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// How the scheduler works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pods that name another scheduler in `spec.schedulerName` are left to it. Default [`DEFAULT_NAME`].
    pub name: String,
    /// Most bindings under way at a time. Default 128.
    pub bindings: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            bindings: 128,
        }
    }
}
