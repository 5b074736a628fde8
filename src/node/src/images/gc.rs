//! Images that nobody needs are removed when the disk gets full, or when they were not used for a long time; rules and numbers
//! are the kubelet's.
//!
//! Images that no registry has (`localhost/...`) are never removed: nobody could bring them back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;
use vaquita_image::{Digest, Image};

use super::{Images, is_local_only};
use crate::{events::Recorder, host::Disk, pods::Registry};

/// How often it is looked whether there is something to do.
const EVERY: Duration = Duration::from_mins(5);
/// How old content without an image has to be to be garbage, and not something that comes in.
const ABANDONED: Duration = Duration::from_hours(24);

/// When images are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageGc {
    /// Percentage of the file system in use at which images begin to be removed; 100: never. Default 85.
    pub high_percent: u8,
    /// Percentage at which that ends. Default 80.
    pub low_percent: u8,
    /// How long an image is kept in any case. Default 2 minutes.
    pub min_age: Duration,
    /// After how long without use an image is removed however empty the disk is. Default: never.
    pub max_age: Option<Duration>,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_mins(2),
            max_age: None,
        }
    }
}

/// An image, whatever names it has.
#[derive(Debug, Clone)]
struct Kept {
    digest: Digest,
    names: Vec<String>,
    size: u64,
}

/// When an image was first seen, and when it was last seen in use.
#[derive(Debug, Clone, Copy)]
struct Times {
    seen: Instant,
    used: Option<Instant>,
}

/// Decides what goes.
#[derive(Debug)]
struct Collector {
    config: ImageGc,
    times: HashMap<Digest, Times>,
}

impl Collector {
    fn new(config: ImageGc) -> Self {
        let times = HashMap::new();
        Self { config, times }
    }

    /// Notes what there is and what of it is used.
    fn look(&mut self, now: Instant, images: &[Kept], in_use: &HashSet<Digest>) {
        let there: HashSet<_> = images.iter().map(|image| &image.digest).collect();
        self.times.retain(|digest, _| there.contains(digest));
        for image in images {
            let times = self.times.entry(image.digest.clone());
            let times = times.or_insert(Times {
                seen: now,
                used: None,
            });
            if in_use.contains(&image.digest) {
                times.used = Some(now);
            }
        }
    }

    /// What may go, the longest unused first, and for how long it was not used.
    fn candidates<'i>(&self, now: Instant, images: &'i [Kept]) -> Vec<(Duration, &'i Kept)> {
        let unused = |image: &'i Kept| {
            let times = self.times.get(&image.digest)?;
            let idle = now.duration_since(times.used.unwrap_or(times.seen));
            let is_old = now.duration_since(times.seen) >= self.config.min_age;
            let may_go = times.used != Some(now)
                && is_old
                && !image.names.iter().any(|name| is_local_only(name));
            may_go.then_some((idle, image))
        };
        let mut candidates: Vec<_> = images.iter().filter_map(unused).collect();
        candidates.sort_by_key(|(idle, image)| (Reverse(*idle), image.digest.clone()));
        candidates
    }

    /// What was not used for too long.
    fn outdated<'i>(&self, now: Instant, images: &'i [Kept]) -> Vec<&'i Kept> {
        let Some(max_age) = self.config.max_age else {
            return Vec::new();
        };
        let candidates = self.candidates(now, images).into_iter();
        candidates
            .filter(|(idle, _)| *idle > max_age)
            .map(|(_, image)| image)
            .collect()
    }

    /// How many bytes are to be freed.
    fn wanted(&self, disk: Disk) -> u64 {
        let used = 100 - u64::min(100, percent(disk.available, disk.total));
        if used < u64::from(self.config.high_percent) || self.config.high_percent >= 100 {
            return 0;
        }
        let free = disk.total / 100 * (100 - u64::from(self.config.low_percent.min(100)));
        free.saturating_sub(disk.available)
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// By which somebody asks for room now. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Requests(mpsc::Sender<oneshot::Sender<()>>);

impl Requests {
    /// And where they arrive.
    pub(crate) fn new() -> (Self, mpsc::Receiver<oneshot::Sender<()>>) {
        let (sender, requests) = mpsc::channel(1);
        (Self(sender), requests)
    }

    /// Nobody listens.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        Self::new().0
    }

    /// Has all images removed that nobody needs and that have been here for long enough, and waits for it. `false`: there is
    /// nobody who would.
    pub(crate) async fn remove(&self) -> bool {
        let (done, finished) = oneshot::channel();
        self.0.send(done).await.is_ok() && finished.await.is_ok()
    }
}

/// Whom to ask and to tell.
pub(crate) struct Gc {
    pub(crate) images: Images,
    pub(crate) registry: Registry,
    pub(crate) events: Recorder,
    /// The node, as events speak of it.
    pub(crate) about: Arc<ObjectReference>,
    pub(crate) config: ImageGc,
    /// Of those who need room now.
    pub(crate) requests: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Gc {
    /// Works until the node ends.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut collector = Collector::new(self.config.clone());
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {
                    let disk = crate::host::disk(self.images.store.dir());
                    self.round(&mut collector, disk).await;
                }
                // Never closed: the node has the other end as long as it runs.
                Some(done) = self.requests.recv() => {
                    self.remove_unused(&mut collector).await;
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Removes all that nobody needs.
    async fn remove_unused(&self, collector: &mut Collector) {
        let now = Instant::now();
        let images = grouped(self.images.list().await);
        collector.look(now, &images, &self.in_use().await);
        for (_, image) in collector.candidates(now, &images) {
            self.remove(image).await;
        }
    }

    async fn round(&self, collector: &mut Collector, disk: Option<Disk>) {
        let now = Instant::now();
        let images = grouped(self.images.list().await);
        collector.look(now, &images, &self.in_use().await);
        for image in collector.outdated(now, &images) {
            self.remove(image).await;
        }
        let wanted = disk.map_or(0, |disk| collector.wanted(disk));
        if wanted > 0 {
            let images = grouped(self.images.list().await);
            let candidates = collector.candidates(now, &images);
            self.free(wanted, candidates.into_iter().map(|(_, image)| image))
                .await;
        }
        self.images.sweep(SystemTime::now() - ABANDONED).await;
    }

    /// Removes images until so many bytes are free.
    async fn free(&self, wanted: u64, candidates: impl Iterator<Item = &Kept>) {
        tracing::info!(bytes = wanted, "the disk gets full: removing images");
        let mut freed = 0_u64;
        for image in candidates {
            if freed >= wanted {
                return;
            }
            if self.remove(image).await {
                freed = freed.saturating_add(image.size);
            }
        }
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            );
            self.events
                .warning(&self.about, "FreeDiskSpaceFailed", message);
        }
    }

    /// What the containers of the node's pods were made of, and what they will be made of.
    async fn in_use(&self) -> HashSet<Digest> {
        let mut in_use = HashSet::new();
        let mut names = HashSet::new();
        for entry in self.registry.entries() {
            let spec = entry.pod.spec.as_ref();
            let containers = spec.into_iter().flat_map(|spec| {
                let init = spec.init_containers.iter().flatten();
                spec.containers.iter().chain(init)
            });
            names.extend(containers.filter_map(|container| container.image.clone()));
            let volumes = spec.and_then(|spec| spec.volumes.as_ref());
            let images = volumes
                .into_iter()
                .flatten()
                .filter_map(|volume| volume.image.as_ref());
            names.extend(images.filter_map(|image| image.reference.clone()));
            let ids = entry.board.read(|facts| {
                let records = facts.containers.iter();
                records
                    .map(|record| record.image_id.clone())
                    .collect::<Vec<_>>()
            });
            let digests = ids.iter().filter_map(|id| id.rsplit('@').next());
            in_use.extend(digests.filter_map(|digest| digest.parse::<Digest>().ok()));
        }
        for name in names {
            if let Ok(Some(image)) = self.images.find(&name).await {
                in_use.insert(image.digest);
            }
        }
        in_use
    }

    /// Forgets all names of an image.
    async fn remove(&self, image: &Kept) -> bool {
        let mut all = true;
        for name in &image.names {
            match self.images.remove(name).await {
                Ok(()) => tracing::info!(image = name, "removed: not used"),
                Err(error) => {
                    tracing::warn!(image = name, %error, "cannot remove the image");
                    all = false;
                }
            }
        }
        all
    }
}

/// Names of the same image together.
fn grouped(images: Vec<Image>) -> Vec<Kept> {
    let mut kept: BTreeMap<Digest, Kept> = BTreeMap::new();
    for image in images {
        let entry = kept.entry(image.digest.clone());
        let entry = entry.or_insert_with(|| Kept {
            digest: image.digest,
            names: Vec::new(),
            size: image.size,
        });
        entry.names.push(image.reference);
    }
    kept.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn image(name: &str) -> Kept {
        Kept {
            digest: Digest::of(name.as_bytes()),
            names: vec![name.to_owned()],
            size: GIB,
        }
    }

    fn used(images: &[&Kept]) -> HashSet<Digest> {
        images.iter().map(|image| image.digest.clone()).collect()
    }

    fn names(candidates: &[(Duration, &Kept)]) -> Vec<String> {
        let names = candidates.iter().map(|(_, image)| image.names[0].clone());
        names.collect()
    }

    #[test]
    fn space_is_made_from_the_high_mark_down_to_the_low_one() {
        let collector = Collector::new(ImageGc::default());
        let disk = |available| Disk {
            total: 100 * GIB,
            available,
        };
        for (available, wanted) in [
            (100 * GIB, 0),
            (16 * GIB, 0),
            (15 * GIB, 5 * GIB),
            (0, 20 * GIB),
        ] {
            assert_eq!(collector.wanted(disk(available)), wanted, "{available}");
        }
        let never = Collector::new(ImageGc {
            high_percent: 100,
            ..ImageGc::default()
        });
        assert_eq!(never.wanted(disk(0)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_goes_first_and_what_is_used_or_new_stays() {
        let mut collector = Collector::new(ImageGc::default());
        let images = [
            image("a.example/used"),
            image("a.example/before"),
            image("a.example/never"),
            image("localhost/own"),
        ];
        let [running, before, never, _] = &images;
        collector.look(Instant::now(), &images, &used(&[running, before]));
        tokio::time::advance(Duration::from_mins(1)).await;
        collector.look(Instant::now(), &images, &used(&[running, before]));
        assert!(
            collector.candidates(Instant::now(), &images).is_empty(),
            "all are new"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        let mut later = images.to_vec();
        later.push(image("a.example/new"));
        collector.look(Instant::now(), &later, &used(&[running]));
        let candidates = collector.candidates(Instant::now(), &later);
        assert_eq!(
            names(&candidates),
            [never.names[0].clone(), before.names[0].clone()]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_for_too_long_goes_whatever_room_there_is() {
        let mut collector = Collector::new(ImageGc {
            max_age: Some(Duration::from_hours(1)),
            ..ImageGc::default()
        });
        let images = [image("a.example/used"), image("a.example/old")];
        let nothing = HashSet::new();
        collector.look(Instant::now(), &images, &nothing);
        assert!(collector.outdated(Instant::now(), &images).is_empty());
        tokio::time::advance(Duration::from_mins(61)).await;
        let now = Instant::now();
        collector.look(now, &images, &used(&[&images[0]]));
        let outdated = collector.outdated(now, &images);
        assert_eq!(outdated.len(), 1);
        assert_eq!(outdated[0].digest, images[1].digest);
    }
}
