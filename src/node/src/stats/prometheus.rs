//! `/metrics/resource`: the kubelet's metrics of resources, in Prometheus' text format. Each sample has its time.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{NodeReading, PodReading};

pub(super) fn text(node: &NodeReading, pods: &[PodReading]) -> String {
    let mut text = Text::default();
    let containers = || {
        pods.iter().flat_map(|pod| {
            pod.containers.iter().map(move |(name, reading)| {
                let labels = [
                    ("container", name.as_str()),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                ];
                (labels, reading)
            })
        })
    };
    let totals = || {
        pods.iter().filter_map(|pod| {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.name)];
            Some((labels, pod.total()?))
        })
    };
    let now = node.own.time;
    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "CPU time that the container has used, in seconds of a core.",
    );
    for (labels, reading) in containers() {
        text.sample(&labels, reading.cpu.total.as_secs_f64(), Some(reading.time));
    }
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Memory that the container uses, in bytes.",
    );
    for (labels, reading) in containers() {
        text.sample(&labels, bytes(reading.memory), Some(reading.time));
    }
    text.family(
        "container_start_time_seconds",
        "gauge",
        "When the container started, in seconds since the epoch.",
    );
    for (labels, reading) in containers() {
        let started = reading.started.as_duration().as_secs_f64();
        text.sample(&labels, started, Some(reading.time));
    }
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "CPU time that the node has used, in seconds of a core.",
    );
    text.sample(&[], node.cpu.total.as_secs_f64(), Some(now));
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Memory that the node uses, in bytes.",
    );
    text.sample(&[], bytes(node.memory.working_set), Some(now));
    text.family(
        "node_swap_usage_bytes",
        "gauge",
        "Swap that the node uses, in bytes.",
    );
    text.sample(&[], bytes(node.memory.swap), Some(now));
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "CPU time that the pod has used, in seconds of a core.",
    );
    for (labels, total) in totals() {
        text.sample(&labels, total.cpu.total.as_secs_f64(), Some(total.time));
    }
    text.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Memory that the pod uses, in bytes.",
    );
    for (labels, total) in totals() {
        text.sample(&labels, bytes(total.memory), Some(total.time));
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if the figures could not be read, else 0.",
    );
    text.sample(&[], 0.0, None);
    text.out
}

/// Samples, in Prometheus' text format.
#[derive(Default)]
pub(super) struct Text {
    pub(super) out: String,
    name: &'static str,
}

impl Text {
    /// Begins a family of samples.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        // Writing to a string can't fail; here and below.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64, time: Option<Timestamp>) {
        self.out.push_str(self.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let value = value
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let _ = write!(self.out, "{before}{name}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = write!(self.out, " {value}");
        if let Some(time) = time {
            let _ = write!(self.out, " {}", time.as_millisecond());
        }
        self.out.push('\n');
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are of this kind"
)]
pub(super) fn bytes(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_labels_and_times() {
        let mut text = Text::default();
        text.family("m", "gauge", "Help.");
        text.sample(&[], 1.0, None);
        let time = Timestamp::from_millisecond(1500).unwrap();
        text.sample(&[("a", "x"), ("b", "\"\\")], 0.25, Some(time));
        let expected = "# HELP m Help.\n# TYPE m gauge\nm 1\nm{a=\"x\",b=\"\\\"\\\\\"} 0.25 1500\n";
        assert_eq!(text.out, expected);
    }
}
