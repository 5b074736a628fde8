//! What pods have on disk: their logs and their volumes. Counting files takes time, so what was counted counts for a minute, as
//! in upstream's kubelet.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::ResourceExt as _;
use vaquita_logs::{LogStore, PodKey};

use crate::{eviction::bytes_below, host, pods::Entry};

/// How long figures are good for.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// Figures by the pod's UID, each with the time when it was counted.
type Counted = HashMap<String, (Instant, Arc<PodDisk>)>;

/// What was counted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disks {
    known: Arc<Mutex<Counted>>,
}

/// What a pod has on disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodDisk {
    /// Bytes of each container's logs.
    pub(super) logs: Vec<(String, u64)>,
    pub(super) volumes: Vec<VolumeReading>,
    /// The file system that it is all on.
    pub(super) file_system: FileSystem,
}

/// A volume, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct VolumeReading {
    pub(super) name: String,
    pub(super) used: u64,
    /// What it may hold.
    pub(super) capacity: u64,
    pub(super) available: u64,
    /// The claim that it is, if it is one.
    pub(super) claim: Option<String>,
    /// Whether it takes from the disk that the pods share.
    pub(super) is_ephemeral: bool,
}

/// A file system: bytes, and inodes where it has them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct FileSystem {
    pub(super) disk: Option<host::Disk>,
    pub(super) inodes: Option<host::Disk>,
}

impl FileSystem {
    /// That of a directory.
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            disk: host::disk(dir),
            inodes: host::inodes(dir).filter(|inodes| inodes.total > 0),
        }
    }
}

impl PodDisk {
    /// Bytes of the disk that the pods share.
    pub(super) fn total(&self) -> u64 {
        let volumes = self.volumes.iter().filter(|volume| volume.is_ephemeral);
        let logs = self.logs.iter().map(|(_, bytes)| *bytes);
        logs.chain(volumes.map(|volume| volume.used))
            .fold(0, u64::saturating_add)
    }
}

/// What is to be counted of a pod.
pub(super) struct Places {
    uid: String,
    /// Of each container.
    logs: Vec<(String, PathBuf)>,
    volumes: Vec<Place>,
}

/// Where a volume is.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) claim: Option<String>,
    pub(crate) kind: PlaceKind,
}

/// What a volume is, for who counts.
pub(crate) enum PlaceKind {
    /// A directory; and what it may hold, if that is bounded.
    Directory {
        path: PathBuf,
        limit: Option<u64>,
        is_ephemeral: bool,
    },
    /// Memory: what it holds, and may hold.
    Memory { used: u64, limit: u64 },
}

impl Places {
    /// Those of a pod.
    pub(super) fn of(entry: &Entry, logs: &LogStore) -> Self {
        let dir = logs.pod_dir(&PodKey::of(&entry.pod));
        let containers = entry.pod.spec.iter().flat_map(|spec| &spec.containers);
        Self {
            uid: entry.pod.uid().unwrap_or_default(),
            logs: containers
                .map(|container| (container.name.clone(), dir.join(&container.name)))
                .collect(),
            volumes: entry.board.volumes(&entry.pod),
        }
    }

    /// Counts. Blocks.
    fn count(self, on: &Path) -> PodDisk {
        let logs = self.logs.into_iter();
        PodDisk {
            logs: logs.map(|(name, dir)| (name, bytes_below(&dir))).collect(),
            volumes: self.volumes.into_iter().map(Place::count).collect(),
            file_system: FileSystem::of(on),
        }
    }
}

impl Place {
    fn count(self) -> VolumeReading {
        let (used, capacity, available, is_ephemeral) = match self.kind {
            PlaceKind::Memory { used, limit } => (used, limit, limit.saturating_sub(used), false),
            PlaceKind::Directory {
                path,
                limit,
                is_ephemeral,
            } => {
                let (used, disk) = (bytes_below(&path), host::disk(&path));
                let total = disk.map_or(0, |disk| disk.total);
                let capacity = limit.map_or(total, |limit| limit.min(total));
                let free = disk.map_or(0, |disk| disk.available);
                let left = limit.map_or(free, |limit| limit.saturating_sub(used).min(free));
                (used, capacity, left, is_ephemeral)
            }
        };
        VolumeReading {
            name: self.name,
            used,
            capacity,
            available,
            claim: self.claim,
            is_ephemeral,
        }
    }
}

impl Disks {
    /// What pods have on disk, by their uids. Blocks. `on` is the directory that all of it is below.
    pub(super) fn read(&self, places: Vec<Places>, on: &Path) -> HashMap<String, Arc<PodDisk>> {
        let now = Instant::now();
        let is_good = |at: &Instant| now.saturating_duration_since(*at) < GOOD_FOR;
        let before = std::mem::take(&mut *self.lock());
        let read: HashMap<_, _> = places
            .into_iter()
            .map(|places| {
                let known = before.get(&places.uid).filter(|(at, _)| is_good(at));
                let uid = places.uid.clone();
                let disk = known
                    .cloned()
                    .unwrap_or_else(|| (now, Arc::new(places.count(on))));
                (uid, disk)
            })
            .collect();
        self.lock().clone_from(&read);
        read.into_iter()
            .map(|(uid, (_, disk))| (uid, disk))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<PodDisk>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        let directory = |name: &str, limit: Option<u64>, is_ephemeral: bool| Place {
            name: name.to_owned(),
            claim: (!is_ephemeral).then(|| "claim".to_owned()),
            kind: PlaceKind::Directory {
                path: dir.join(name),
                limit,
                is_ephemeral,
            },
        };
        let memory = Place {
            name: "memory".to_owned(),
            claim: None,
            kind: PlaceKind::Memory {
                used: 10,
                limit: 30,
            },
        };
        Places {
            uid: "u".to_owned(),
            logs: vec![("c".to_owned(), dir.join("logs"))],
            volumes: vec![
                directory("empty", Some(1 << 20), true),
                directory("claimed", None, false),
                memory,
            ],
        }
    }

    #[test]
    fn what_was_counted_counts_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["logs", "empty", "claimed"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("file"), vec![1; 8 << 10]).unwrap();
        }
        let disks = Disks::default();
        let first = disks.read(vec![places(dir.path())], dir.path());
        let disk = &first["u"];
        let [empty, claimed, memory] = disk.volumes.as_slice() else {
            panic!("{disk:?}")
        };
        assert!(empty.used >= 8 << 10 && empty.capacity <= 1 << 20);
        assert_eq!(empty.available, empty.capacity - empty.used);
        assert!(claimed.capacity > 1 << 20 && claimed.claim.is_some());
        assert_eq!((memory.used, memory.available), (10, 20));
        assert_eq!(
            disk.total(),
            disk.logs[0].1 + empty.used,
            "what the pods share"
        );
        std::fs::write(dir.path().join("empty/more"), vec![1; 8 << 10]).unwrap();
        let again = disks.read(vec![places(dir.path())], dir.path());
        assert_eq!(again["u"], first["u"]);
        // Pods that are gone are forgotten.
        assert!(disks.read(Vec::new(), dir.path()).is_empty());
        let anew = disks.read(vec![places(dir.path())], dir.path());
        assert!(anew["u"].volumes[0].used > empty.used);
    }
}
