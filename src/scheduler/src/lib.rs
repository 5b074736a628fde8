//! Assigns pods to nodes.
//!
//! One loop ([`run()`]) holds the whole picture and decides pod by pod; only the API calls that follow a decision run
//! beside it. The picture ([`cluster`]) is kept up by events, so that a decision costs a look at each node and none at
//! other pods: [`census`] counts pods by sort, [`topology`] sorts nodes by labels. [`queue`] says which pod is next,
//! [`plan`] works out what its decision needs to know, [`filter`] which nodes can take it, [`score`] which of those is
//! best ([`search`] puts it all together), [`preempt`] who has to go if none can, [`bind`] tells the API server, and [`hints`] knows when to try again.
//!
//! Which plugins have a say, and how much, is a matter of profiles ([`config`]).

mod bind;
mod budgets;
mod census;
mod cluster;
mod config;
mod devices;
mod events;
mod feed;
mod filter;
mod hints;
mod images;
mod plan;
mod pod;
mod preempt;
mod profile;
mod queue;
mod resources;
mod run;
mod score;
mod search;
mod selector;
mod services;
mod topology;
mod volumes;

use std::time::Duration;

pub use config::ConfigError;
pub use profile::Profile;
pub use run::run;

/// The scheduler that takes care of pods which name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// How the scheduler works. [`Options::from_configuration`] reads upstream's configuration file.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pods that name none of these in `spec.schedulerName` are left to other schedulers. Default one profile,
    /// [`DEFAULT_NAME`], with upstream's plugins.
    pub profiles: Vec<Profile>,
    /// Most bindings under way at a time. Default 128.
    pub bindings: usize,
    /// How long a pod waits after the first attempt in vain; twice as long after each further one. Default 1 s.
    pub first_backoff: Duration,
    /// The longest that a pod waits between attempts when something has changed. Default 10 s.
    pub longest_backoff: Duration,
    /// Of how many percent of the nodes it is enough to know that they can take a pod. Default none: of all in
    /// clusters of up to 100 nodes, less and less of them in larger ones, 5 % at least.
    pub percentage_of_nodes: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::named(DEFAULT_NAME)],
            bindings: 128,
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(10),
            percentage_of_nodes: None,
        }
    }
}
