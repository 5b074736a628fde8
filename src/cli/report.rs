//! What a person watching `vaquita up` sees: one line for each step, with how long it took.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use crate::cluster::Step;

/// Prints steps to standard output as they end.
pub(super) struct Report {
    last: Instant,
}

impl Report {
    pub(super) fn start() -> Self {
        Self {
            last: Instant::now(),
        }
    }

    /// A step of the cluster's start.
    pub(super) fn cluster_step(&mut self, step: &Step) {
        self.last = Instant::now();
        line(step.name, &step.detail, step.took);
    }

    /// A step that ends now and began where the previous one ended.
    pub(super) fn step(&mut self, name: &str, detail: &str) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        line(name, detail, took);
    }

    /// A line that is no step.
    pub(super) fn say(text: &str) {
        let mut out = std::io::stdout().lock();
        // Nobody reads any more: that is no reason to stop the cluster.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn line(name: &str, detail: &str, took: Duration) {
    Report::say(&format!(
        "  {name:<13} {detail:<58} {:>9}",
        milliseconds(took)
    ));
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_milliseconds_with_one_decimal() {
        assert_eq!(milliseconds(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(milliseconds(Duration::from_secs(2)), "2000.0 ms");
    }
}
