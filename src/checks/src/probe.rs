//! Probes: whether a container has started, is ready, is alive.
//!
//! [`Checks::of`] reads the manifest; [`run`] probes as long as its future lives, and tells the container's runner
//! what follows. The rules are upstream's `prober`: a startup probe holds the others back until it has succeeded; an
//! outcome counts once it has come as many times in a row as its threshold says; readiness begins with no, liveness
//! with yes; a probe that cannot be made changes nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::action::{Action, Outcome, Target};

/// How long a readiness probe of a container that has just started is tried again quickly, before it is taken for
/// unready. Most modules begin to listen within milliseconds, and a period later would be late for them.
const EAGER_FOR: Duration = Duration::from_secs(1);
const EAGER_EVERY: Duration = Duration::from_millis(20);

/// Which of the three probes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whether it has started.
    Startup,
    /// Whether it is ready.
    Readiness,
    /// Whether it is alive.
    Liveness,
}

impl Kind {
    /// As events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a runner hears from the probes of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// The startup probe has succeeded.
    Started,
    /// What the readiness probe says has changed.
    Ready(bool),
    /// The container is to be ended; within that time, if the probe says it.
    Dead(Kind, Option<Duration>),
    /// The container is to be ended: its postStart hook failed.
    HookFailed(String),
    /// A probe succeeded in a way that there is something to say about: for an event.
    Warning(String),
    /// A probe failed, or could not be made: for an event.
    Complaint(String),
}

/// The probes of a container.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// Whether it has started.
    pub startup: Option<Check>,
    /// Whether it is ready.
    pub readiness: Option<Check>,
    /// Whether it is alive.
    pub liveness: Option<Check>,
}

/// A probe, read from the manifest.
#[derive(Debug, Clone)]
pub struct Check {
    action: Action,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    grace: Option<Duration>,
}

impl Checks {
    /// As the manifest has them.
    pub fn of(container: &Container) -> Self {
        let check = |probe: &Option<Probe>| probe.as_ref().map(|probe| Check::of(probe, container));
        Self {
            startup: check(&container.startup_probe),
            readiness: check(&container.readiness_probe),
            liveness: check(&container.liveness_probe),
        }
    }
}

impl Check {
    /// Values out of range count as the API's defaults.
    fn of(probe: &Probe, container: &Container) -> Self {
        let seconds = |value: Option<i32>, least: i32, default: u64| {
            let value = value
                .filter(|value| *value >= least)
                .and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(value.unwrap_or(default))
        };
        let times = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let grace = probe
            .termination_grace_period_seconds
            .and_then(|grace| u64::try_from(grace).ok());
        Self {
            action: Action::of_probe(probe, container).unwrap_or_else(Action::Impossible),
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 1, 10),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
            grace: grace.map(Duration::from_secs),
        }
    }
}

/// Counts outcomes in a row.
#[derive(Debug, Default)]
struct Tally {
    last: Option<bool>,
    run: u32,
}

impl Tally {
    /// What the check says now, if the outcome has come often enough.
    fn count(&mut self, success: bool, check: &Check) -> Option<bool> {
        if self.last != Some(success) {
            *self = Self {
                last: Some(success),
                run: 0,
            };
        }
        self.run = self.run.saturating_add(1);
        let threshold = if success {
            check.success_threshold
        } else {
            check.failure_threshold
        };
        (self.run >= threshold).then_some(success)
    }
}

/// Probes a container that started just now, until the startup probe or the liveness probe ends it.
pub async fn run(checks: Checks, target: Target<'_>, signals: mpsc::Sender<Signal>) {
    let start = Instant::now();
    let prober = Prober {
        target,
        signals: &signals,
        start,
    };
    if let Some(check) = &checks.startup {
        if !prober.startup(check).await {
            return;
        }
        prober.send(Signal::Started).await;
    }
    tokio::join!(
        prober.readiness(checks.readiness.as_ref()),
        prober.liveness(checks.liveness.as_ref())
    );
}

struct Prober<'a> {
    target: Target<'a>,
    signals: &'a mpsc::Sender<Signal>,
    start: Instant,
}

impl Prober<'_> {
    /// Probes until it counts, and says whether the container has started.
    async fn startup(&self, check: &Check) -> bool {
        let mut tally = Tally::default();
        let mut next = self.start + check.initial_delay;
        loop {
            let outcome = self.attempt(Kind::Startup, check, next).await;
            match outcome.and_then(|success| tally.count(success, check)) {
                Some(true) => return true,
                Some(false) => {
                    self.send(Signal::Dead(Kind::Startup, check.grace)).await;
                    return false;
                }
                None => {}
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    async fn readiness(&self, check: Option<&Check>) {
        let Some(check) = check else { return };
        let first = (self.start + check.initial_delay).max(Instant::now());
        let mut next = self.eager(check, first).await;
        let mut tally = Tally::default();
        let mut ready = false;
        loop {
            let outcome = self.attempt(Kind::Readiness, check, next).await;
            let verdict = outcome.and_then(|success| tally.count(success, check));
            if let Some(verdict) = verdict.filter(|verdict| *verdict != ready) {
                ready = verdict;
                self.send(Signal::Ready(ready)).await;
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    /// Waits, for a short while, until a first success is likely, and says when to begin in earnest. What fails
    /// meanwhile is not counted.
    async fn eager(&self, check: &Check, first: Instant) -> Instant {
        sleep_until(first).await;
        let deadline = self.start + check.initial_delay + EAGER_FOR;
        loop {
            let outcome = self.outcome(check).await;
            let next = Instant::now() + EAGER_EVERY;
            if !matches!(outcome, Outcome::Failure(_)) || next > deadline {
                return Instant::now();
            }
            sleep_until(next).await;
        }
    }

    async fn liveness(&self, check: Option<&Check>) {
        let Some(check) = check else { return };
        let mut tally = Tally::default();
        let mut next = (self.start + check.initial_delay).max(Instant::now());
        loop {
            let outcome = self.attempt(Kind::Liveness, check, next).await;
            if outcome.and_then(|success| tally.count(success, check)) == Some(false) {
                self.send(Signal::Dead(Kind::Liveness, check.grace)).await;
                return;
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    /// One attempt at that time, and whether it succeeded; `None` if it could not be made.
    async fn attempt(&self, kind: Kind, check: &Check, at: Instant) -> Option<bool> {
        sleep_until(at).await;
        let name = kind.as_str();
        match self.outcome(check).await {
            Outcome::Success => Some(true),
            Outcome::Warning(message) => {
                let warning = format!("{name} probe warning: {message}");
                self.send(Signal::Warning(warning)).await;
                Some(true)
            }
            Outcome::Failure(message) => {
                self.send(Signal::Complaint(format!("{name} probe failed: {message}")))
                    .await;
                Some(false)
            }
            Outcome::Unknown(message) => {
                let complaint =
                    format!("{name} probe errored and resulted in unknown state: {message}");
                self.send(Signal::Complaint(complaint)).await;
                None
            }
        }
    }

    async fn outcome(&self, check: &Check) -> Outcome {
        match timeout(check.timeout, check.action.attempt(self.target)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failure(check.action.timed_out(self.target, check.timeout)),
        }
    }

    async fn send(&self, signal: Signal) {
        // Without a receiver, this future is about to be dropped.
        let _ = self.signals.send(signal).await;
    }
}

#[cfg(test)]
mod tests;
