//! Ending pods before the machine runs out of what all of them need: memory, space on disk, inodes; and pods that take more
//! of the disk than they said.
//!
//! [`Evictor::run`] looks every ten seconds, as a kubelet does. When something is short, the node says so in its conditions,
//! takes no more pods that might make it worse, and ends one pod at a time, the one that has the least right to what it uses.
//! Before pods, images go that nobody needs, if that helps. What is short by a soft threshold only may be so for a while.

pub(crate) mod rank;
mod soft;
mod thresholds;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource as _, ResourceExt as _};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use vaquita_logs::PodKey;
use vaquita_manifest::own_grace;

pub use soft::SoftEviction;
pub use thresholds::{EvictionThresholds, ThresholdError};

use self::{
    rank::{Amount, Candidate, GRACE, amount, evicted, is_critical, priority, request, verdict},
    soft::Since,
    thresholds::{Crossed, Measured, Signal},
};
use crate::{
    host,
    images::gc,
    pod::{Context, board::Verdict, status::Phase},
    pods::{Entry, Registry},
};

/// How often it is looked. Upstream's.
const EVERY: Duration = Duration::from_secs(10);
/// How long the node counts as short of something after it was. Upstream's.
const HOLD: Duration = Duration::from_mins(5);
/// The resource of disks.
const STORAGE: &str = "ephemeral-storage";

/// What the node is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

impl Pressure {
    /// Why a pod is not taken now. Messages are upstream's.
    pub(crate) fn refusal(self, pod: &Pod) -> Option<String> {
        let is_harmless = !self.disk && (!self.memory || !rank::is_best_effort(pod));
        if is_harmless || is_critical(pod) {
            return None;
        }
        let conditions = match (self.memory, self.disk) {
            (true, true) => "DiskPressure MemoryPressure",
            (true, false) => "MemoryPressure",
            _ => "DiskPressure",
        };
        Some(format!("The node had condition: [{conditions}]. "))
    }
}

/// Ends pods for the good of the others.
pub(crate) struct Evictor {
    pub(crate) context: Arc<Context>,
    pub(crate) registry: Registry,
    pub(crate) thresholds: EvictionThresholds,
    pub(crate) soft: SoftEviction,
    /// Removes images that nobody needs.
    pub(crate) unused_images: gc::Requests,
    /// Where pods have their volumes.
    pub(crate) pods_dir: PathBuf,
    /// Where images are.
    pub(crate) images_dir: PathBuf,
    /// What the node is short of.
    pub(crate) pressure: watch::Sender<Pressure>,
}

/// When something was short last.
#[derive(Debug, Default)]
struct Seen {
    memory: Option<Instant>,
    disk: Option<Instant>,
    /// By soft thresholds.
    soft: Since,
}

/// What a pod has on disk, in bytes.
#[derive(Debug, Clone, Default)]
struct OnDisk {
    volumes: u64,
    /// Of each container's logs.
    logs: Vec<(String, u64)>,
}

impl OnDisk {
    fn total(&self) -> u64 {
        let logs = self.logs.iter().map(|(_, bytes)| *bytes);
        logs.fold(self.volumes, u64::saturating_add)
    }
}

impl Evictor {
    /// Looks until told to stop.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut seen = Seen::default();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look(&mut seen).await;
        }
    }

    async fn look(&self, seen: &mut Seen) {
        let measured = self.measure().await;
        let hard = self.thresholds.crossed(&measured);
        let soft = self.soft.thresholds().crossed(&measured);
        self.report(hard.iter().chain(&soft), seen);
        self.hold_to_limits().await;
        let overdue = seen.soft.overdue(Instant::now(), &self.soft, soft);
        if let Some(first) = hard.first() {
            if !self.is_helped_by_images(*first, &self.thresholds).await {
                self.relieve(*first, |_| GRACE).await;
            }
        } else if let Some(first) = overdue.first()
            && !self
                .is_helped_by_images(*first, self.soft.thresholds())
                .await
        {
            self.relieve(*first, |pod| self.soft.grace(own_grace(pod)))
                .await;
        }
    }

    /// Has images removed that nobody needs, if they are where there is too little room, and says whether that is enough.
    async fn is_helped_by_images(&self, crossed: Crossed, thresholds: &EvictionThresholds) -> bool {
        let is_theirs = match crossed.signal {
            Signal::Memory => false,
            Signal::ImageFs | Signal::ImageInodes => true,
            Signal::NodeFs | Signal::NodeInodes => {
                is_same_file_system(&self.pods_dir, &self.images_dir)
            }
        };
        if !is_theirs || !self.unused_images.remove().await {
            return false;
        }
        let left = thresholds.crossed(&self.measure().await);
        left.iter().all(|left| left.signal != crossed.signal)
    }

    async fn measure(&self) -> Vec<Measured> {
        let (pods, images) = (self.pods_dir.clone(), self.images_dir.clone());
        // Without an answer, nothing is known and nothing happens.
        let measured = tokio::task::spawn_blocking(move || measure(&pods, &images)).await;
        measured.unwrap_or_default()
    }

    /// Says what is short, and for a while what was.
    fn report<'c>(&self, crossed: impl Iterator<Item = &'c Crossed>, seen: &mut Seen) {
        let now = Instant::now();
        for crossed in crossed {
            match crossed.signal {
                Signal::Memory => seen.memory = Some(now),
                _ => seen.disk = Some(now),
            }
        }
        let is_recent = |seen: Option<Instant>| seen.is_some_and(|seen| now - seen < HOLD);
        let pressure = Pressure {
            memory: is_recent(seen.memory),
            disk: is_recent(seen.disk),
        };
        self.pressure.send_if_modified(|current| {
            let is_news = *current != pressure;
            *current = pressure;
            is_news
        });
    }

    /// Ends the pod that has the least right to what is short, within the time that it gets.
    async fn relieve(&self, crossed: Crossed, grace: impl Fn(&Pod) -> Duration) {
        let mut candidates = Vec::new();
        for entry in self.active() {
            if is_critical(&entry.pod) {
                continue;
            }
            let used = if crossed.signal == Signal::Memory {
                in_memory(&entry)
            } else {
                let disk = self.on_disk(&entry).await;
                let mut used = disk.logs;
                // It is nobody's alone, and somebody must have it.
                if let Some((_, first)) = used.first_mut() {
                    *first += disk.volumes;
                }
                used
            };
            let name = if crossed.signal == Signal::Memory {
                "memory"
            } else {
                STORAGE
            };
            candidates.push(Candidate {
                priority: priority(&entry.pod),
                usage: used
                    .iter()
                    .fold(0, |sum: u64, (_, used)| sum.saturating_add(*used)),
                request: request(&entry.pod, name),
                pod: (entry, used),
            });
        }
        rank::rank(&mut candidates);
        if let Some(Candidate {
            pod: (entry, used), ..
        }) = candidates.into_iter().next()
        {
            let grace = grace(&entry.pod);
            self.end(&entry, verdict(&entry.pod, crossed, &used, grace));
        }
    }

    /// Ends pods that have more on disk than they may.
    async fn hold_to_limits(&self) {
        for entry in self.active() {
            let Some(spec) = &entry.pod.spec else {
                continue;
            };
            let limit = |container| amount(container, Amount::Limit, STORAGE);
            let limits: Vec<_> = spec.containers.iter().map(limit).collect();
            if limits.iter().all(Option::is_none) {
                continue;
            }
            let disk = self.on_disk(&entry).await;
            if let Some(message) = beyond_limits(&entry.pod, &limits, &disk) {
                self.end(&entry, evicted(message, GRACE));
            }
        }
    }

    fn active(&self) -> Vec<Entry> {
        let mut entries = self.registry.entries();
        entries.retain(|entry| {
            let is_ending = entry
                .board
                .read(|facts| facts.verdict.is_some() || facts.is_done());
            !is_ending && !Phase::of(&entry.pod).is_final()
        });
        entries
    }

    async fn on_disk(&self, entry: &Entry) -> OnDisk {
        let uid = entry.pod.uid().unwrap_or_default();
        let volumes = self.context.volumes.of(&uid).path().to_owned();
        let logs = self.context.logs.pod_dir(&PodKey::of(&entry.pod));
        let containers = entry.pod.spec.iter().flat_map(|spec| &spec.containers);
        let names: Vec<String> = containers.map(|container| container.name.clone()).collect();
        let measured = tokio::task::spawn_blocking(move || OnDisk {
            volumes: bytes_below(&volumes),
            logs: names
                .into_iter()
                .map(|name| (name.clone(), bytes_below(&logs.join(&name))))
                .collect(),
        });
        measured.await.unwrap_or_default()
    }

    fn end(&self, entry: &Entry, verdict: Verdict) {
        let about = Arc::new(entry.pod.object_ref(&()));
        let message = verdict.message.clone();
        tracing::info!(
            namespace = entry.pod.namespace(),
            pod = entry.pod.name_any(),
            message,
            "evicted"
        );
        self.context.events.warning(&about, rank::EVICTED, message);
        entry.board.update(|facts| {
            facts.verdict.get_or_insert(verdict);
        });
    }
}

/// What there is of everything, as far as the system says it.
fn measure(pods: &Path, images: &Path) -> Vec<Measured> {
    let memory = host::memory_available().map(|available| Measured {
        signal: Signal::Memory,
        available,
        total: host::memory_total(),
    });
    let of = |signal, amount: Option<host::Disk>| {
        amount.filter(|disk| disk.total > 0).map(|disk| Measured {
            signal,
            available: disk.available,
            total: disk.total,
        })
    };
    // Where images are on the same file system as pods, that one has one threshold.
    let images = Some(images).filter(|images| !is_same_file_system(pods, images));
    let disks = [
        of(Signal::NodeFs, host::disk(pods)),
        of(Signal::NodeInodes, host::inodes(pods)),
        of(Signal::ImageFs, images.and_then(host::disk)),
        of(Signal::ImageInodes, images.and_then(host::inodes)),
    ];
    memory
        .into_iter()
        .chain(disks.into_iter().flatten())
        .collect()
}

fn is_same_file_system(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |dir| fs::metadata(dir).ok().map(|metadata| metadata.dev());
    device(one) == device(other)
}

/// What the containers of a pod use of memory.
fn in_memory(entry: &Entry) -> Vec<(String, u64)> {
    let meters = entry.board.meters();
    meters.iter().map(|meter| meter.memory()).collect()
}

/// Whether a pod has more on disk than its limits say. Messages are upstream's.
fn beyond_limits(pod: &Pod, limits: &[Option<u64>], disk: &OnDisk) -> Option<String> {
    let show = |bytes: u64| Signal::NodeFs.show(bytes);
    for ((name, used), limit) in disk.logs.iter().zip(limits) {
        if let Some(limit) = limit.filter(|limit| used > limit) {
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{}\". ",
                show(limit)
            ));
        }
    }
    let all: Option<Vec<u64>> = limits.iter().copied().collect();
    let total = all?.into_iter().fold(0, u64::saturating_add);
    (disk.total() > total && pod.spec.is_some()).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            show(total)
        )
    })
}

/// What the files in a directory and below it take. Links are not followed; what goes away meanwhile counts as nothing.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0_u64;
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                left.push(entry.path());
            }
            // Blocks of half a kilobyte, whatever the file system has.
            sum = sum.saturating_add(metadata.blocks().saturating_mul(512));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, container, pod};

    fn evictor(bench: &Bench, thresholds: &str) -> Evictor {
        Evictor {
            context: bench.context.clone(),
            registry: Registry::default(),
            thresholds: thresholds.parse().unwrap(),
            soft: SoftEviction::default(),
            unused_images: gc::Requests::to_nobody(),
            pods_dir: "/".into(),
            images_dir: "/".into(),
            pressure: watch::Sender::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shortness_is_told_at_once_and_its_end_after_a_while() {
        let bench = Bench::new(pod("Always", json!([container("a")])));
        let evictor = evictor(&bench, "");
        let (mut seen, pressure) = (Seen::default(), evictor.pressure.subscribe());
        let short = Crossed {
            signal: Signal::ImageFs,
            least: 1,
            available: 0,
        };
        evictor.report([].iter(), &mut seen);
        assert!(!pressure.has_changed().unwrap());
        evictor.report([short].iter(), &mut seen);
        let disk = Pressure {
            disk: true,
            ..Pressure::default()
        };
        assert_eq!(*pressure.borrow(), disk);
        tokio::time::advance(HOLD.checked_sub(Duration::from_secs(1)).unwrap()).await;
        evictor.report([].iter(), &mut seen);
        assert_eq!(*pressure.borrow(), disk);
        tokio::time::advance(Duration::from_secs(1)).await;
        evictor.report([].iter(), &mut seen);
        assert_eq!(*pressure.borrow(), Pressure::default());
    }

    #[test]
    fn what_makes_it_worse_is_not_taken() {
        let spec = |containers| serde_json::from_value(pod("Always", containers)).unwrap();
        let careless: Pod = spec(json!([container("a")]));
        let mut sized = container("a");
        sized["resources"] = json!({"requests": {"memory": "1Mi"}});
        let careful: Pod = spec(json!([sized]));
        let memory = Pressure {
            memory: true,
            disk: false,
        };
        assert_eq!(Pressure::default().refusal(&careless), None);
        assert_eq!(
            memory.refusal(&careless).as_deref(),
            Some("The node had condition: [MemoryPressure]. ")
        );
        assert_eq!(memory.refusal(&careful), None);
        let disk = Pressure {
            disk: true,
            ..memory
        };
        assert!(disk.refusal(&careful).is_some());
    }

    #[test]
    fn limits_are_held_for_each_container_and_for_all() {
        let pod: Pod = serde_json::from_value(pod("Always", json!([]))).unwrap();
        let disk = OnDisk {
            volumes: 3 << 20,
            logs: vec![("a".to_owned(), 1 << 20), ("b".to_owned(), 2 << 20)],
        };
        let check = |limits: [Option<u64>; 2]| beyond_limits(&pod, &limits, &disk);
        assert_eq!(
            check([Some(1 << 20), None]),
            None,
            "the other one may have all"
        );
        assert_eq!(
            check([Some(5 << 20), Some(1 << 20)]).as_deref(),
            Some("Container b exceeded its local ephemeral storage limit \"1Mi\". ")
        );
        assert_eq!(
            check([Some(3 << 20), Some(2 << 20)]).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ")
        );
        assert_eq!(check([Some(4 << 20), Some(2 << 20)]), None);
    }

    #[test]
    fn files_are_counted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("in");
        fs::create_dir(&inner).unwrap();
        let before = bytes_below(&inner);
        fs::write(inner.join("file"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink(dir.path(), inner.join("up")).unwrap();
        let after = bytes_below(&inner);
        assert!(
            (64 << 10..128 << 10).contains(&(after - before)),
            "{before} {after}"
        );
        assert_eq!(bytes_below(&dir.path().join("absent")), 0);
    }
}
