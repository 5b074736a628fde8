//! What is printed: a line for each measurement as it ends, or one JSON document at the end. What is under way is
//! shown on standard error while somebody looks at it.

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    time::Duration,
};

use serde::Serialize;

use super::{
    load::Run,
    process::Usage,
    stats::{Latency, Samples, rate, to_f64},
};

/// How to print figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A table, line by line.
    #[default]
    Table,
    /// One JSON object at the end, for programs.
    Json,
}

/// What was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    /// What was done.
    pub(super) work: String,
    /// Through how many connections.
    pub(super) connections: usize,
    /// How many times.
    pub(super) count: usize,
    /// In which time, in seconds.
    pub(super) seconds: f64,
    /// How many a second; absent where the pace was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) per_second: Option<f64>,
    /// How long each took.
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub(super) latency: Option<Latency>,
    /// CPU time of the server's processes for each, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_ms: Option<f64>,
    /// Memory of the server's processes afterwards, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_resident_mib: Option<f64>,
}

impl Figure {
    /// Something that was done as often as possible.
    pub(super) fn throughput(
        work: impl Into<String>,
        connections: usize,
        count: usize,
        took: Duration,
    ) -> Self {
        Self {
            work: work.into(),
            connections,
            count,
            seconds: took.as_secs_f64(),
            per_second: Some(rate(count, took)),
            latency: None,
            server_cpu_ms: None,
            server_resident_mib: None,
        }
    }

    pub(super) fn of(work: impl Into<String>, run: Run) -> Self {
        let figure = Self::throughput(work, run.connections, run.latencies.len(), run.took);
        Self {
            latency: run.latencies.summary(),
            ..figure
        }
    }

    /// Something that was done at a given pace.
    pub(super) fn latency(
        work: impl Into<String>,
        connections: usize,
        samples: Samples,
        took: Duration,
    ) -> Self {
        let figure = Self::throughput(work, connections, samples.len(), took);
        Self {
            per_second: None,
            latency: samples.summary(),
            ..figure
        }
    }
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    server: &'a str,
    version: &'a str,
    figures: &'a [Figure],
}

pub(super) struct Report {
    format: Format,
    server: String,
    version: String,
    pids: Vec<u32>,
    before: Option<Usage>,
    figures: Vec<Figure>,
    watched: bool,
}

impl Report {
    pub(super) fn new(format: Format, server: String, version: String, pids: Vec<u32>) -> Self {
        let before = Usage::of(&pids);
        Self {
            format,
            server,
            version,
            pids,
            before,
            figures: Vec::new(),
            watched: stderr().is_terminal(),
        }
    }

    /// Shows what is under way, and begins to count what the server uses for it.
    pub(super) fn progress(&mut self, work: &str) {
        self.before = Usage::of(&self.pids);
        self.status(work);
    }

    /// Adds what was measured since the last [`Report::progress`].
    pub(super) fn add(&mut self, mut figure: Figure) {
        if let (Some(before), Some(after)) = (self.before, Usage::of(&self.pids)) {
            let cpu = after.cpu.saturating_sub(before.cpu);
            figure.server_cpu_ms = Some(cpu.as_secs_f64() * 1000.0 / to_f64(figure.count.max(1)));
            figure.server_resident_mib = Some(after.resident_mib);
        }
        self.status("");
        if self.format == Format::Table {
            if self.figures.is_empty() {
                print(&format!(
                    "{} ({})\n{}",
                    self.server,
                    self.version,
                    header(&self.pids)
                ));
            }
            print(&row(&figure));
        }
        self.figures.push(figure);
    }

    pub(super) fn finish(self) {
        self.status("");
        if self.format == Format::Json {
            let Self {
                server,
                version,
                figures,
                ..
            } = &self;
            let document = Document {
                server,
                version,
                figures,
            };
            // Maps with keys that are strings, and numbers that are finite: this cannot fail.
            print(&serde_json::to_string_pretty(&document).unwrap_or_default());
        }
    }

    /// Replaces the line that says what is under way.
    fn status(&self, text: &str) {
        if self.watched {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
        }
    }
}

fn print(text: &str) {
    // Nobody reads it: then nobody misses it.
    let _ = writeln!(stdout().lock(), "{text}");
}

fn header(pids: &[u32]) -> String {
    let server = if pids.is_empty() {
        String::new()
    } else {
        format!(" {:>9} {:>9}", "CPU ms", "RSS MiB")
    };
    format!(
        "{:<44} {:>5} {:>8} {:>9} {:>9} {:>9} {:>9}{server}",
        "WORK", "CONNS", "COUNT", "PER S", "P50 ms", "P99 ms", "MAX ms"
    )
}

fn row(figure: &Figure) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let latency = |pick: fn(&Latency) -> f64| number(figure.latency.as_ref().map(pick), 2);
    let Figure {
        work,
        connections,
        count,
        per_second,
        server_cpu_ms,
        server_resident_mib,
        ..
    } = figure;
    let server = match (server_cpu_ms, server_resident_mib) {
        (Some(cpu), Some(resident)) => format!(" {cpu:>9.3} {resident:>9.1}"),
        _ => String::new(),
    };
    // Large rates need no fraction, small ones do.
    let per_second = number(
        *per_second,
        usize::from(per_second.is_some_and(|rate| rate < 100.0)),
    );
    format!(
        "{work:<44} {connections:>5} {count:>8} {per_second:>9} {:>9} {:>9} {:>9}{server}",
        latency(|latency| latency.p50),
        latency(|latency| latency.p99),
        latency(|latency| latency.max),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn figure() -> Figure {
        let latencies =
            (1..=100)
                .map(Duration::from_millis)
                .fold(Samples::default(), |mut samples, took| {
                    samples.push(took);
                    samples
                });
        Figure::of(
            "create",
            Run {
                connections: 16,
                start: Instant::now(),
                took: Duration::from_millis(500),
                latencies,
            },
        )
    }

    #[test]
    fn a_row_fits_under_its_header() {
        assert_eq!(row(&figure()).len(), header(&[]).len());
        assert_eq!(
            row(&figure()).split_whitespace().collect::<Vec<_>>(),
            ["create", "16", "100", "200", "50.00", "99.00", "100.00"]
        );
    }

    #[test]
    fn what_was_not_measured_is_a_dash_or_absent() {
        let figure = Figure::throughput("watch", 1, 10, Duration::from_secs(1));
        assert!(row(&figure).ends_with('-'));
        let json = serde_json::to_value(&figure).unwrap();
        assert_eq!(json["perSecond"], 10.0);
        assert!(json.get("p50Ms").is_none() && json.get("serverCpuMs").is_none());
    }
}
