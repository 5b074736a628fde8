//! A pod's volumes, from before its first container starts until nothing of it runs any more.
//!
//! [`Storage::set_up`] tries until all volumes are there, and says meanwhile in events what is missing. From then on a
//! task of the pod keeps those current which the cluster fills. Containers get their [`mounts`](Storage::mounts) of it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume as Declared, VolumeMount};
use kube::{Resource as _, ResourceExt as _};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use vaquita_backends::{Sandbox, with_causes};
use vaquita_docker::{Bind, Source};
use vaquita_manifest::{expand_strictly, memory_limit, part, propagation};
use vaquita_runtime::{Mount, Volume};
use vaquita_volumes::{Mounted, Place, PodVolumes, fields::Machine};

use super::{Context, Feed, backoff::Doubling, follow::News, image_volume::ImageVolume};
use crate::stats::disk::{self, PlaceKind};

/// How soon a volume that could not be set up is tried again at first, then twice as long each time: upstream's.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(122);
/// How soon a volume that could not be brought up to date is tried again.
const REFRESH_RETRY: Duration = Duration::from_mins(1);

/// The volumes of a pod that are there.
pub(crate) struct Storage {
    volumes: BTreeMap<String, Ready>,
    keeper: Keeper,
}

/// A volume that can be mounted.
struct Ready {
    volume: Volume,
    /// The file of its directory that the volume is, if it is only that.
    file: Option<String>,
    /// The directory, if it is one of this machine.
    directory: Option<PathBuf>,
    read_only: bool,
    /// What keeps the directory, if it is an image's.
    image: Option<ImageVolume>,
}

/// Where a mount of a container is on this machine.
#[derive(Debug)]
pub(crate) struct MountPoint {
    pub(crate) guest: PathBuf,
    /// The volume's directory; `None` if it has none.
    pub(crate) directory: Option<PathBuf>,
    /// What of it is mounted.
    pub(crate) sub_path: PathBuf,
}

/// What keeps volumes current.
enum Keeper {
    /// Nothing can change.
    Idle,
    Working {
        stop: CancellationToken,
        task: JoinHandle<()>,
    },
}

/// Why a container's mounts cannot be had. The texts are upstream's where it has some.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountProblem {
    #[error("volume {0:?} is not one of the pod's")]
    Unknown(String),
    #[error(
        "failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {why}"
    )]
    SubPath {
        volume: String,
        container: String,
        why: String,
    },
}

impl Storage {
    /// A pod without volumes.
    pub(super) fn empty() -> Self {
        Self {
            volumes: BTreeMap::new(),
            keeper: Keeper::Idle,
        }
    }

    /// Sets up all volumes of the pod, however long it takes.
    pub(super) async fn set_up(context: &Arc<Context>, feed: &watch::Receiver<Feed>) -> Self {
        let pod = feed.borrow().pod.clone();
        let mut left: Vec<Declared> = declared(&pod).to_vec();
        if left.is_empty() {
            return Self::empty();
        }
        // Before anything is read, so that no change is missed.
        let namespace = pod.namespace().unwrap_or_default();
        let mut news = context
            .follower
            .follow(&namespace, PodVolumes::references(&pod));
        let mut volumes = pod_volumes(context, &pod);
        let mut retry = Doubling::new(RETRY, LONGEST_RETRY);
        let mut ready = BTreeMap::new();
        loop {
            let mut failed = Vec::new();
            for volume in left {
                match set_up(context, &pod, &mut volumes, &volume).await {
                    Ok(opened) => drop(ready.insert(volume.name.clone(), opened)),
                    Err(why) => {
                        complain(context, &pod, &volume.name, &why);
                        failed.push(volume);
                    }
                }
            }
            if failed.is_empty() {
                break;
            }
            left = failed;
            tokio::select! {
                () = tokio::time::sleep(retry.next()) => {}
                () = news.changed() => {}
            }
        }
        let keeper = Keeper::hire(context, feed, volumes, news);
        Self {
            volumes: ready,
            keeper,
        }
    }

    /// Has modules use the memory that Linux containers of the pod use, where there is some: the kernel says then how much may
    /// be in it.
    pub(super) async fn share_memory(&mut self, sandbox: &dyn Sandbox) -> io::Result<()> {
        let volumes = self.volumes.iter_mut();
        for (name, ready) in volumes.filter(|(_, ready)| ready.directory.is_none()) {
            if let Some(path) = sandbox.memory_volume(name).await {
                ready.volume = Volume::directory(path)?;
            }
        }
        Ok(())
    }

    /// What a container mounts. Directories that its `subPath`s name are made.
    pub(super) fn mounts(
        &self,
        container: &Container,
        environment: &[(String, String)],
    ) -> Result<Vec<Mount>, MountProblem> {
        let wanted = container.volume_mounts.iter().flatten();
        wanted
            .map(|mount| self.mount(container, mount, environment))
            .collect()
    }

    fn mount(
        &self,
        container: &Container,
        wanted: &VolumeMount,
        environment: &[(String, String)],
    ) -> Result<Mount, MountProblem> {
        let ready = self.volumes.get(&wanted.name);
        let ready = ready.ok_or_else(|| MountProblem::Unknown(wanted.name.clone()))?;
        let problem = |why| MountProblem::SubPath {
            volume: wanted.name.clone(),
            container: container.name.clone(),
            why,
        };
        let mut sub_path = wanted.sub_path.clone().unwrap_or_default();
        if let Some(expression) = wanted
            .sub_path_expr
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            sub_path = expand_strictly(expression, environment)
                .map_err(|name| problem(format!("missing value for {name:?}")))?;
        }
        let is_outside =
            |path: &str| path.starts_with('/') || path.split('/').any(|name| name == "..");
        if is_outside(&sub_path) {
            return Err(problem(
                "it must be a relative path without '..'".to_owned(),
            ));
        }
        if let Some(directory) = &ready.directory
            && !ready.read_only
            && ready.file.is_none()
            && !sub_path.is_empty()
        {
            make_below(directory, &sub_path).map_err(|error| problem(error.to_string()))?;
        }
        if let Some(file) = &ready.file {
            sub_path.clone_from(file);
        }
        Ok(Mount {
            guest: absolute(&wanted.mount_path),
            volume: ready.volume.clone(),
            sub_path,
            read_only: ready.read_only || wanted.read_only == Some(true),
        })
    }

    /// What a container on the machine's kernel mounts; or what of it cannot be.
    pub(super) fn binds(
        &self,
        container: &Container,
        environment: &[(String, String)],
    ) -> Result<Vec<Bind>, String> {
        let mut list = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let mount = self.mount(container, wanted, environment);
            let mount = mount.map_err(|problem| problem.to_string())?;
            let name = &wanted.name;
            let directory = self
                .volumes
                .get(name)
                .and_then(|ready| ready.directory.as_ref());
            let source = match directory {
                None if mount.sub_path.is_empty() => Source::Memory(name.clone()),
                None => return Err(format!("volume {name:?} is in memory: it has no subPath")),
                Some(directory) if mount.sub_path.is_empty() => Source::Path(directory.clone()),
                Some(directory) => {
                    let part = part(directory, &mount.sub_path);
                    Source::Path(part.map_err(|error| {
                        format!("failed to prepare volumeMount {name:?}: {error}")
                    })?)
                }
            };
            list.push(Bind {
                source,
                target: mount.guest,
                read_only: mount.read_only,
                propagation: propagation(wanted.mount_propagation.as_deref()),
            });
        }
        Ok(list)
    }

    /// Where on this machine the container's mounts are.
    pub(crate) fn points(
        &self,
        container: &Container,
        environment: &[(String, String)],
    ) -> Vec<MountPoint> {
        let wanted = container.volume_mounts.iter().flatten();
        let points = wanted.filter_map(|wanted| {
            let mount = self.mount(container, wanted, environment).ok()?;
            Some(MountPoint {
                guest: mount.guest.into(),
                directory: self.volumes.get(&wanted.name)?.directory.clone(),
                sub_path: mount.sub_path.into(),
            })
        });
        points.collect()
    }

    /// Where the volumes are, for who counts what is in them.
    pub(crate) fn places(&self, pod: &Pod) -> Vec<disk::Place> {
        let place = |declared: &Declared| {
            let ready = self.volumes.get(&declared.name)?;
            let claim = match (&declared.persistent_volume_claim, &declared.ephemeral) {
                (Some(claim), _) => Some(claim.claim_name.clone()),
                (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), declared.name)),
                (None, None) => None,
            };
            let kind = match &ready.directory {
                // It is the machine's, and may be all of it.
                Some(_) if declared.host_path.is_some() || ready.image.is_some() => return None,
                Some(path) => PlaceKind::Directory {
                    path: path.clone(),
                    limit: ready.volume.limit(),
                    is_ephemeral: claim.is_none(),
                },
                None => PlaceKind::Memory {
                    used: ready.volume.used(),
                    limit: ready.volume.limit().unwrap_or_default(),
                },
            };
            Some(disk::Place {
                name: declared.name.clone(),
                claim,
                kind,
            })
        };
        declared(pod).iter().filter_map(place).collect()
    }

    /// Stops keeping the volumes current.
    pub(super) async fn rest(&mut self) {
        if let Keeper::Working { stop, task } = std::mem::replace(&mut self.keeper, Keeper::Idle) {
            stop.cancel();
            // A panic has been reported.
            let _ = task.await;
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Keeper::Working { task, .. } = &self.keeper {
            task.abort();
        }
    }
}

impl Keeper {
    fn hire(
        context: &Arc<Context>,
        feed: &watch::Receiver<Feed>,
        volumes: PodVolumes,
        news: News,
    ) -> Self {
        let pod = feed.borrow().pod.clone();
        let is_kept = |volume: &Declared| {
            let kinds = [
                volume.config_map.is_some(),
                volume.secret.is_some(),
                volume.downward_api.is_some(),
                volume.projected.is_some(),
            ];
            kinds.contains(&true)
        };
        if !declared(&pod).iter().any(is_kept) {
            return Self::Idle;
        }
        let stop = CancellationToken::new();
        let keeping = keep(context.clone(), feed.clone(), volumes, news, stop.clone());
        Self::Working {
            task: tokio::spawn(keeping),
            stop,
        }
    }
}

/// Brings volumes up to date whenever what they are made of changes.
async fn keep(
    context: Arc<Context>,
    mut feed: watch::Receiver<Feed>,
    mut volumes: PodVolumes,
    mut news: News,
    stop: CancellationToken,
) {
    let mut written = feed.borrow_and_update().pod.metadata.clone();
    let mut again = None;
    loop {
        let renewal = volumes.renew_at().map(until);
        let timer = async {
            match [renewal, again].into_iter().flatten().min() {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = timer => {}
            () = news.changed() => {}
            changed = feed.changed() => {
                if changed.is_err() {
                    return;
                }
                let metadata = &feed.borrow_and_update().pod.metadata;
                let is_same = metadata.labels == written.labels && metadata.annotations == written.annotations;
                if is_same {
                    continue;
                }
                written = metadata.clone();
            }
        }
        let pod = feed.borrow().pod.clone();
        again = None;
        for volume in declared(&pod) {
            if let Err(error) = volumes.refresh(&pod, volume).await {
                complain(&context, &pod, &volume.name, &with_causes(&error));
                again = Some(Instant::now() + REFRESH_RETRY);
            }
        }
    }
}

/// Sets a volume up and opens it; or says why that is not possible now.
async fn set_up(
    context: &Arc<Context>,
    pod: &Pod,
    volumes: &mut PodVolumes,
    volume: &Declared,
) -> Result<Ready, String> {
    let image = match &volume.image {
        Some(source) => {
            let image = ImageVolume::open(context, pod, source).await;
            Some(image.map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let mounted = if let Some(image) = &image {
        Mounted {
            name: volume.name.clone(),
            place: Place::Directory(image.path()),
            size_limit: None,
            read_only: true,
        }
    } else {
        let mounted = volumes.mount(pod, volume).await;
        mounted.map_err(|error| with_causes(&error))?
    };
    let memory = memory_for_volumes(pod, context);
    // Where space is limited, what is there already is counted.
    let opened = tokio::task::spawn_blocking(move || open(&mounted, memory)).await;
    let opened = opened.unwrap_or_else(|error| Err(error.into()));
    let mut ready = opened.map_err(|error| error.to_string())?;
    ready.image = image;
    Ok(ready)
}

fn until(time: Timestamp) -> Instant {
    let left = time.duration_since(Timestamp::now());
    Instant::now() + Duration::try_from(left).unwrap_or(Duration::ZERO)
}

fn declared(pod: &Pod) -> &[Declared] {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    volumes.unwrap_or_default()
}

fn pod_volumes(context: &Context, pod: &Pod) -> PodVolumes {
    let machine = Machine {
        cpus: context.capacity.cpus,
        memory: context.capacity.memory,
    };
    let dir = context.volumes.of(&pod.uid().unwrap_or_default());
    PodVolumes::new(
        dir,
        context.sources.clone(),
        context.claims.clone(),
        machine,
    )
}

fn complain(context: &Context, pod: &Pod, volume: &str, why: &str) {
    let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}");
    let about = Arc::new(pod.object_ref(&()));
    context.events.warning(&about, "FailedMount", message);
}

/// Opens a volume, so that whatever happens at its path, containers that start later have the same.
/// A volume in memory may take `memory` bytes.
fn open(mounted: &Mounted, memory: u64) -> io::Result<Ready> {
    let mut ready = Ready {
        volume: Volume::memory(0),
        file: None,
        directory: None,
        read_only: mounted.read_only,
        image: None,
    };
    match &mounted.place {
        Place::Memory => {
            let limit = mounted.size_limit.unwrap_or(u64::MAX);
            ready.volume = Volume::memory(limit.min(memory));
        }
        Place::Directory(path) => {
            ready.volume = match mounted.size_limit {
                Some(limit) => Volume::directory_with_limit(path, limit)?,
                None => Volume::directory(path)?,
            };
            ready.directory = Some(path.clone());
        }
        Place::File(path) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            ready.volume = Volume::directory(parent)?;
            ready.directory = Some(parent.to_owned());
            ready.file = path
                .file_name()
                .and_then(|name| Some(name.to_str()?.to_owned()));
        }
    }
    Ok(ready)
}

/// The most that a volume in memory may take: what the containers may take together, or half of the machine's memory if
/// one of them may take all.
fn memory_for_volumes(pod: &Pod, context: &Context) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits: Option<Vec<u64>> = containers.map(memory_limit).collect();
    let limit = limits.map(|limits| {
        limits
            .iter()
            .fold(0, |sum: u64, limit| sum.saturating_add(*limit))
    });
    limit
        .filter(|limit| *limit > 0)
        .unwrap_or(context.capacity.memory / 2)
}

/// Upstream's containers run at the root, so that is where a relative path begins.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Makes the directories on the way that are not there. What is there is left as it is, and a link is not followed: where
/// it leads is the runtime's to find out.
fn make_below(directory: &Path, sub_path: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = open(directory, flags.difference(OFlags::NOFOLLOW), Mode::empty())?;
    for name in sub_path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
    {
        at = match openat(&at, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&at, name, Mode::from_raw_mode(0o777))?;
                openat(&at, name, flags, Mode::empty())?
            }
            // A link or a file.
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_and_links_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::fs::write(inside.join("file"), "x").unwrap();
        for path in ["a/b", "a/./c", "file", "file/x", "link/new"] {
            make_below(&inside, path).unwrap();
        }
        assert!(inside.join("a/b").is_dir() && inside.join("a/c").is_dir());
        assert!(inside.join("file").is_file());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
