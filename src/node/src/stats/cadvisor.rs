//! `/metrics/cadvisor`: what dashboards of containers look for, by the names and labels that cAdvisor has for it, as far as
//! there is such a thing for a module.

use jiff::Timestamp;
use vaquita_backends::Traffic;

use super::{
    NodeReading, PodReading, Reading,
    prometheus::{Text, bytes},
};

/// A family of figures of containers.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: fn(&Reading) -> f64,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "container_cpu_usage_seconds_total",
        kind: "counter",
        help: "CPU time that was used, in seconds of a core.",
        of: |reading| reading.cpu.total.as_secs_f64(),
    },
    Family {
        name: "container_memory_usage_bytes",
        kind: "gauge",
        help: "Memory in use, in bytes.",
        of: |reading| bytes(reading.memory),
    },
    Family {
        name: "container_memory_working_set_bytes",
        kind: "gauge",
        help: "Memory in use that cannot be had for other uses, in bytes: all of it.",
        of: |reading| bytes(reading.memory),
    },
    Family {
        name: "container_memory_rss",
        kind: "gauge",
        help: "Memory in use that is no cache, in bytes: all of it.",
        of: |reading| bytes(reading.memory),
    },
    Family {
        name: "container_start_time_seconds",
        kind: "gauge",
        help: "When it started, in seconds since the epoch.",
        of: |reading| reading.started.as_duration().as_secs_f64(),
    },
];

pub(super) fn text(node: &NodeReading, pods: &[PodReading]) -> String {
    let mut text = Text::default();
    for family in &FAMILIES {
        text.family(family.name, family.kind, family.help);
        for pod in pods {
            for (name, reading) in &pod.containers {
                sample(&mut text, pod, name, (family.of)(reading), reading.time);
            }
            // A pod as a whole is a container without a name.
            if let Some(total) = pod.total() {
                sample(&mut text, pod, "", (family.of)(&total), total.time);
            }
        }
    }
    text.family(
        "container_fs_usage_bytes",
        "gauge",
        "Bytes of logs on disk.",
    );
    for pod in pods {
        for (name, used) in &pod.disk.logs {
            sample(&mut text, pod, name, bytes(*used), node.own.time);
        }
    }
    traffic(&mut text, node, pods);
    text.family("machine_cpu_cores", "gauge", "Cores of the machine.");
    text.sample(&[], f64::from(crate::host::cpus()), None);
    text.family(
        "machine_memory_bytes",
        "gauge",
        "Memory of the machine, in bytes.",
    );
    text.sample(&[], bytes(crate::host::memory_total()), None);
    text.out
}

/// What went over the networks of pods.
fn traffic(text: &mut Text, node: &NodeReading, pods: &[PodReading]) {
    type Of = fn(&Traffic) -> u64;
    let families: [(&str, &str, Of); 2] = [
        (
            "container_network_receive_bytes_total",
            "Bytes that came over the pod's network.",
            |traffic| traffic.received,
        ),
        (
            "container_network_transmit_bytes_total",
            "Bytes that went over the pod's network.",
            |traffic| traffic.sent,
        ),
    ];
    for (name, help, of) in families {
        text.family(name, "counter", help);
        for pod in pods {
            if let Some(traffic) = &pod.traffic {
                let id = format!("/kubepods/pod{}", pod.uid);
                let labels = [
                    ("id", id.as_str()),
                    ("interface", "eth0"),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                ];
                text.sample(&labels, bytes(of(traffic)), Some(node.own.time));
            }
        }
    }
}

fn sample(text: &mut Text, pod: &PodReading, container: &str, value: f64, time: Timestamp) {
    let id = format!("/kubepods/pod{}/{container}", pod.uid);
    let labels = [
        ("container", container),
        ("id", id.trim_end_matches('/')),
        ("name", container),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ];
    text.sample(&labels, value, Some(time));
}
