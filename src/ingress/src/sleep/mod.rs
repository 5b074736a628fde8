//! Workloads that sleep while nobody needs them: scale to zero, and back for the next connection.
//!
//! A Deployment or ReplicationController with the annotation [`IDLE`] takes part. What the parts know of each other is in
//! the API, so they may be on different machines:
//!
//! - The [controller](run_controller) marks the workload's pods with the same annotation, and the Services that
//!   select them with [`WAKES`]. When all pods have been idle for long enough, it notes the number of
//!   replicas in [`REPLICAS`] and scales to zero.
//! - The [agent](Agent) of each node watches the marked pods that it runs: the network counts the connections that others
//!   make to them. A pod that was idle for the time gets [`IDLE_SINCE`]; one that is needed again loses it. So a
//!   busy pod costs no write at all.
//! - The network of each node holds a connect to a Service that is marked and has no endpoint, and tells the agent. The agent
//!   scales the workloads back at once; when the first pod is ready, its endpoint lets the connect through.
//!
//! Nothing of this polls. Whoever scales a workload by hand is obeyed: zero replicas without [`REPLICAS`] is no sleep, and
//! connects are refused as ever.

mod agent;
mod controller;
mod workload;

use std::time::Duration;

use jiff::SignedDuration;

pub use agent::Agent;
pub use controller::run_controller;

/// On a workload, and copied to its pods: how long nobody may have needed it before it sleeps, such as `30s` or `5m`.
pub const IDLE: &str = "vaquita.dev/scale-to-zero";
/// On a workload that sleeps: how many replicas it goes back to.
pub const REPLICAS: &str = "vaquita.dev/replicas-when-awake";
/// On a pod that nobody needs: since when, as a time stamp.
pub const IDLE_SINCE: &str = "vaquita.dev/idle-since";
/// On a Service: which workloads to wake for it, as `RESOURCE/NAME`, separated by commas.
pub const WAKES: &str = "vaquita.dev/wakes";

/// Shorter times would have pods come and go with every request.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longer ones are a mistake in the unit.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Reads an idle time.
fn parse_idle(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is not a duration such as 30s or 5m"))?;
    match Duration::try_from(parsed) {
        Ok(idle) if (SHORTEST..=LONGEST).contains(&idle) => Ok(idle),
        _ => Err(format!("{text:?} is not between 1s and 168h")),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod parsing {
    use super::*;

    #[test]
    fn idle_times_are_durations_within_reason() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5400), (" 1s ", 1)] {
            assert_eq!(parse_idle(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "soon", "-5s", "0s", "10ms", "8d", "999999h"] {
            assert!(parse_idle(text).is_err(), "{text}");
        }
    }
}
