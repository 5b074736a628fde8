//! What the node, its pods and their containers use: `/stats/summary`, `/metrics/resource` and
//! `/metrics/cadvisor`, as a kubelet answers them.
//!
//! Consumers add up and compare these figures over time, so totals only ever grow while a container lives, and start at
//! zero with the next one. Rates are means over the time since the sample before, at least [`WINDOW`] long.

mod cadvisor;
pub(crate) mod disk;
mod machine;
mod prometheus;
mod summary;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Json, extract::State as Shared, response::IntoResponse};
use http::header;
use jiff::Timestamp;
use kube::ResourceExt as _;
use vaquita_backends::{Instance, Traffic, Usage};

use disk::{FileSystem, Places, PodDisk};
pub(crate) use machine::Machine;

use crate::http::Kubelet;

/// The shortest time that a rate is a mean over, once a container is older than that.
const WINDOW: Duration = Duration::from_secs(10);

/// `/stats/summary`.
pub(crate) async fn summary(Shared(kubelet): Shared<Kubelet>) -> impl IntoResponse {
    let (node, pods) = readings(kubelet, true).await;
    Json(summary::summary(&node, &pods))
}

/// `/metrics/resource`.
pub(crate) async fn resource(Shared(kubelet): Shared<Kubelet>) -> impl IntoResponse {
    let (node, pods) = readings(kubelet, false).await;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        prometheus::text(&node, &pods),
    )
}

/// `/metrics/cadvisor`.
pub(crate) async fn containers(Shared(kubelet): Shared<Kubelet>) -> impl IntoResponse {
    let (node, pods) = readings(kubelet, true).await;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], cadvisor::text(&node, &pods))
}

/// What the machine uses.
#[derive(Debug, Clone)]
struct NodeReading {
    name: String,
    started: Timestamp,
    cpu: Cpu,
    memory: machine::Memory,
    /// The file system of pods and logs.
    fs: FileSystem,
    /// That of images.
    images: FileSystem,
    /// This process, in which all pods run.
    own: Reading,
}

/// What a pod uses.
#[derive(Debug, Clone)]
struct PodReading {
    namespace: String,
    name: String,
    uid: String,
    started: Option<Timestamp>,
    containers: Vec<(String, Reading)>,
    disk: Arc<PodDisk>,
    traffic: Option<Traffic>,
}

/// What something uses, at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    time: Timestamp,
    started: Timestamp,
    cpu: Cpu,
    /// Bytes.
    memory: u64,
}

/// CPU time: all of it, and the mean over the latest while in nanoseconds for each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpu {
    total: Duration,
    rate: u64,
}

impl PodReading {
    /// The sum of the containers; `None` if there is none.
    fn total(&self) -> Option<Reading> {
        let (_, first) = self.containers.first()?;
        let mut total = *first;
        for (_, reading) in &self.containers[1..] {
            total.cpu.total += reading.cpu.total;
            total.cpu.rate += reading.cpu.rate;
            total.memory += reading.memory;
            total.time = total.time.min(reading.time);
            total.started = total.started.min(reading.started);
        }
        Some(total)
    }
}

/// Reads everything, what is on disk only if wanted. Files are read on a thread that may block.
async fn readings(kubelet: Kubelet, with_disk: bool) -> (NodeReading, Vec<PodReading>) {
    let (machine, disks) = (kubelet.machine.clone(), kubelet.disks.clone());
    let entries = kubelet.registry.entries();
    let counted = entries.iter().filter(|_| with_disk);
    let places: Vec<_> = counted
        .map(|entry| Places::of(entry, &kubelet.logs))
        .collect();
    let logs = kubelet.logs.dir().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let on_disk = with_disk.then(|| disks.read(places, &logs));
        (machine.read(), on_disk.unwrap_or_default())
    });
    let read = read.await;
    let (node, on_disk) = read.unwrap_or_else(|_| (kubelet.machine.unread(), HashMap::new()));
    let mut pods: Vec<_> = entries
        .into_iter()
        .map(|entry| PodReading {
            namespace: entry.pod.namespace().unwrap_or_default(),
            name: entry.pod.name_any(),
            uid: entry.pod.uid().unwrap_or_default(),
            started: entry.board.read(|facts| facts.start_time),
            traffic: entry.board.traffic(),
            disk: entry
                .pod
                .uid()
                .and_then(|uid| on_disk.get(&uid).cloned())
                .unwrap_or_default(),
            containers: entry
                .board
                .meters()
                .into_iter()
                .map(|meter| (meter.container.clone(), meter.read()))
                .collect(),
        })
        .collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    (node, pods)
}

/// Reads what a container's instance uses.
pub(crate) struct Meter {
    container: String,
    started: Timestamp,
    instance: Arc<dyn Instance>,
    rate: Rate,
}

impl Meter {
    pub(crate) fn new(container: String, instance: Arc<dyn Instance>) -> Arc<Self> {
        Arc::new(Self {
            container,
            started: Timestamp::now(),
            rate: Rate::new(instance.usage().cpu),
            instance,
        })
    }

    /// The container's name, and the bytes that it uses.
    pub(crate) fn memory(&self) -> (String, u64) {
        (self.container.clone(), self.instance.usage().memory)
    }

    fn read(&self) -> Reading {
        let Usage { cpu, memory } = self.instance.usage();
        Reading {
            time: Timestamp::now(),
            started: self.started,
            cpu: Cpu {
                total: cpu,
                rate: self.rate.per_second(Instant::now(), cpu),
            },
            memory,
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

/// Makes a rate of a total that is looked at now and then.
#[derive(Debug)]
struct Rate {
    /// Two samples at the most, the older one first, [`WINDOW`] apart.
    samples: Mutex<(Sample, Sample)>,
}

type Sample = (Instant, Duration);

impl Rate {
    fn new(total: Duration) -> Self {
        let sample = (Instant::now(), total);
        Self {
            samples: Mutex::new((sample, sample)),
        }
    }

    /// Nanoseconds for each second.
    fn per_second(&self, now: Instant, total: Duration) -> u64 {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(samples.1.0) >= WINDOW {
            *samples = (samples.1, (now, total));
        }
        let (since, before) = samples.0;
        let passed = now.saturating_duration_since(since).as_nanos();
        let used = total.saturating_sub(before).as_nanos();
        let rate = (used * 1_000_000_000).checked_div(passed).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_means_over_a_window() {
        let rate = Rate::new(Duration::ZERO);
        let start = rate.samples.lock().unwrap().0.0;
        let at = |seconds, used| {
            rate.per_second(
                start + Duration::from_secs(seconds),
                Duration::from_secs(used),
            )
        };
        assert_eq!(at(0, 0), 0, "no time has passed");
        assert_eq!(at(5, 5), 1_000_000_000);
        assert_eq!(at(10, 5), 500_000_000);
        assert_eq!(at(15, 5), 333_333_333);
        // From here on, what was before the last sample is forgotten.
        assert_eq!(at(20, 5), 0);
        assert_eq!(at(25, 5), 0);
        assert_eq!(at(30, 15), 1_000_000_000);
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let reading = |second, cpu, memory| Reading {
            time: Timestamp::from_second(second).unwrap(),
            started: Timestamp::from_second(second - 100).unwrap(),
            cpu: Cpu {
                total: Duration::from_secs(cpu),
                rate: cpu,
            },
            memory,
        };
        let mut pod = PodReading {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            started: None,
            containers: vec![],
            disk: Arc::default(),
            traffic: None,
        };
        assert_eq!(pod.total(), None);
        pod.containers = vec![
            ("a".to_owned(), reading(200, 1, 10)),
            ("b".to_owned(), reading(201, 2, 20)),
        ];
        let total = Reading {
            started: Timestamp::from_second(100).unwrap(),
            ..reading(200, 3, 30)
        };
        assert_eq!(pod.total(), Some(total));
    }
}
