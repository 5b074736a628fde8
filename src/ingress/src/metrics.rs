//! What the proxy counts.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::StatusCode;

/// Upper bounds of the histogram of durations, in milliseconds.
const BUCKETS: [u64; 10] = [1, 2, 5, 10, 25, 100, 250, 1000, 5000, 30_000];

/// Figures of the proxy since it started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By the first digit of the status.
    classes: [AtomicU64; 5],
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    pub(crate) connections: Gauge,
    pub(crate) tunnels: Gauge,
    pub(crate) handshakes_failed: AtomicU64,
}

/// How many there are now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

/// One of those that a [`Gauge`] counts.
pub(crate) struct Counted<'a>(&'a Gauge);

impl Gauge {
    pub(crate) fn one(&self) -> Counted<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts an answer, and how long its head took.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(class) = self.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        let within = BUCKETS.iter().position(|bound| micros <= bound * 1000);
        if let Some(bucket) = within.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.classes
            .iter()
            .map(|class| class.load(Ordering::Relaxed))
            .sum()
    }

    /// All of it in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        writeln!(text, "# TYPE vaquita_ingress_requests counter")?;
        for (class, count) in self.classes.iter().enumerate() {
            let class = class + 1;
            let count = read(count);
            writeln!(
                text,
                "vaquita_ingress_requests_total{{code=\"{class}xx\"}} {count}"
            )?;
        }
        writeln!(
            text,
            "# TYPE vaquita_ingress_request_duration_seconds histogram"
        )?;
        let mut sum = 0;
        for (bound, count) in BUCKETS.iter().zip(&self.buckets) {
            sum += read(count);
            let bound = Duration::from_millis(*bound).as_secs_f64();
            writeln!(
                text,
                "vaquita_ingress_request_duration_seconds_bucket{{le=\"{bound}\"}} {sum}"
            )?;
        }
        let (all, micros) = (self.requests(), read(&self.micros));
        let seconds = Duration::from_micros(micros).as_secs_f64();
        writeln!(
            text,
            "vaquita_ingress_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             vaquita_ingress_request_duration_seconds_sum {seconds}\n\
             vaquita_ingress_request_duration_seconds_count {all}"
        )?;
        for (name, kind, value) in [
            ("connections", "gauge", read(&self.connections.0)),
            ("upgraded_connections", "gauge", read(&self.tunnels.0)),
            (
                "tls_handshakes_failed",
                "counter",
                read(&self.handshakes_failed),
            ),
        ] {
            // In this format, a counter's value is named otherwise than the counter.
            let total = if kind == "counter" { "_total" } else { "" };
            writeln!(
                text,
                "# TYPE vaquita_ingress_{name} {kind}\nvaquita_ingress_{name}{total} {value}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up() {
        let metrics = Metrics::default();
        metrics.answered(StatusCode::OK, Duration::from_millis(3));
        metrics.answered(StatusCode::BAD_GATEWAY, Duration::from_mins(1));
        let one = metrics.tunnels.one();
        let text = metrics.render();
        for line in [
            "vaquita_ingress_requests_total{code=\"2xx\"} 1",
            "vaquita_ingress_requests_total{code=\"5xx\"} 1",
            "vaquita_ingress_request_duration_seconds_bucket{le=\"0.002\"} 0",
            "vaquita_ingress_request_duration_seconds_bucket{le=\"0.005\"} 1",
            "vaquita_ingress_request_duration_seconds_bucket{le=\"30\"} 1",
            "vaquita_ingress_request_duration_seconds_count 2",
            "vaquita_ingress_upgraded_connections 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        drop(one);
        assert!(
            metrics
                .render()
                .contains("vaquita_ingress_upgraded_connections 0")
        );
    }
}
