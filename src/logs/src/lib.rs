//! Containers' logs on disk, as the container runtime interface (CRI) has them.
//!
//! `DIR/NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log` is the current file of one container instance; files that were put
//! aside are `ATTEMPT.log.N`, numbered in order. Log collectors that know a kubelet's `/var/log/pods` know these.
//!
//! Guests write into memory ([`ContainerLog`]); one thread brings that to disk in batches. No file stays open, so
//! that thousands of idle containers need none. What is kept of a container has a bound: the number and size of
//! an instance's files, and two instances, the running one and the one before.

mod cri;
mod read;
mod write;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use vaquita_runtime::LogStream;

pub use read::{LogReader, Query, Streams};
pub use write::ContainerLog;

/// How much of a container's log is kept on disk. The log of the instance before the running one counts for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLimits {
    /// A file that has grown beyond this many bytes is put aside and a new one begun. Default 10 MiB.
    pub file_bytes: u64,
    /// Files of one container instance, the current one included; the oldest are removed. Default 5, at least 2.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            file_bytes: 10 << 20,
            files: 5,
        }
    }
}

/// Names a pod's directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod object's UID.
    pub uid: String,
}

impl PodKey {
    /// Of that pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        }
    }

    /// One component of a path, whatever an API server has let pass as names.
    fn directory(&self) -> String {
        format!(
            "{}_{}_{}",
            component(&self.namespace),
            component(&self.name),
            component(&self.uid)
        )
    }
}

/// Nothing that a path could be led astray with.
fn component(name: &str) -> String {
    let safe = |letter: char| {
        if letter.is_ascii_alphanumeric() || "-.".contains(letter) {
            letter
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(safe).take(253).collect();
    if name.starts_with('.') {
        format!("-{name}")
    } else {
        name
    }
}

/// The files of one instance of a container.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
    attempt: u32,
}

impl Files {
    fn current(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.attempt))
    }

    fn aside(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}.log.{number}", self.attempt))
    }

    /// Numbers of the files that were put aside, oldest first.
    fn numbers(&self) -> Vec<u64> {
        let prefix = format!("{}.log.", self.attempt);
        let number = |name: &str| name.strip_prefix(&prefix)?.parse().ok();
        let mut numbers: Vec<u64> = names(&self.dir).filter_map(|name| number(&name)).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Names in a directory; none if there is no such directory.
fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// What the writing thread is asked to do.
enum Job {
    Flush(Arc<ContainerLog>),
    /// Remove the files of instances before this one.
    Prune {
        dir: PathBuf,
        before: u32,
    },
    Remove(PathBuf),
}

/// All logs of a node. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    limits: LogLimits,
    jobs: mpsc::Sender<Job>,
    /// Logs that are being written, by directory.
    live: Mutex<HashMap<PathBuf, Weak<ContainerLog>>>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was logged.
    pub time: Timestamp,
    /// Where it was written to.
    pub stream: LogStream,
    /// What it says, with its newline unless it is a part of a line.
    pub text: Vec<u8>,
}

impl Entry {
    fn of(line: cri::Line<'_>) -> Option<Self> {
        let mut text = line.content.to_vec();
        if !line.is_partial {
            text.push(b'\n');
        }
        Some(Self {
            time: line.time.parse().ok()?,
            stream: line.stream,
            text,
        })
    }
}

/// How much of a file is read for its last lines, in bytes.
const TAIL: u64 = 256 << 10;

/// The end of a file, from the beginning of a line on if it is not all of it.
fn last_bytes(file: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(file)?;
    let begin = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(io::SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    if begin > 0 {
        let first = bytes.iter().position(|byte| *byte == b'\n');
        bytes.drain(..first.map_or(bytes.len(), |first| first + 1));
    }
    Ok(bytes)
}

impl LogStore {
    /// Makes the directory and starts the writing thread, which ends with the store.
    pub fn open(dir: &Path, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (jobs, todo) = mpsc::channel();
        std::thread::Builder::new()
            .name("vaquita-log".to_owned())
            .spawn(move || work(&todo))?;
        let inner = Inner {
            dir: dir.to_owned(),
            limits,
            jobs,
            live: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The directory that it is all in.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    fn container_dir(&self, pod: &PodKey, container: &str) -> PathBuf {
        self.inner
            .dir
            .join(pod.directory())
            .join(component(container))
    }

    /// Where an instance that is about to start writes. Instances before the previous one are forgotten.
    pub fn begin(&self, pod: &PodKey, container: &str, attempt: u32) -> Arc<ContainerLog> {
        let dir = self.container_dir(pod, container);
        if attempt >= 2 {
            self.ask(Job::Prune {
                dir: dir.clone(),
                before: attempt - 1,
            });
        }
        let files = Files {
            dir: dir.clone(),
            attempt,
        };
        let log = Arc::new(ContainerLog::new(
            files,
            self.inner.limits.clone(),
            self.inner.jobs.clone(),
        ));
        let mut live = self.live();
        live.retain(|_, log| log.strong_count() > 0);
        live.insert(dir, Arc::downgrade(&log));
        log
    }

    /// The last lines that an instance has logged, with their newlines: as many as there are in 256 KiB of its newest file.
    pub fn tail(&self, pod: &PodKey, container: &str, attempt: u32) -> Vec<Entry> {
        let dir = self.container_dir(pod, container);
        let file = Files { dir, attempt }.current();
        // Without the file, nothing was logged.
        let Ok(mut bytes) = last_bytes(&file) else {
            return Vec::new();
        };
        // What is left of a line that the process did not live to write whole.
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(end.unwrap_or(0));
        let lines = bytes.split(|byte| *byte == b'\n');
        lines
            .filter_map(|line| Entry::of(cri::parse(line)?))
            .collect()
    }

    /// What has been logged by an instance.
    pub fn reader(&self, pod: &PodKey, container: &str, attempt: u32) -> LogReader {
        let dir = self.container_dir(pod, container);
        let live = self.live().get(&dir).and_then(Weak::upgrade);
        let live = live.filter(|log| log.attempt() == attempt);
        LogReader::new(Files { dir, attempt }, live)
    }

    /// Where the logs of a pod are, a directory for each container. It need not be there.
    pub fn pod_dir(&self, pod: &PodKey) -> PathBuf {
        self.inner.dir.join(pod.directory())
    }

    /// Forgets a pod's logs.
    pub fn remove(&self, pod: &PodKey) {
        self.ask(Job::Remove(self.pod_dir(pod)));
    }

    /// Forgets the logs of all other pods: those which were deleted while nobody looked.
    pub fn keep_only(&self, pods: &HashSet<PodKey>) {
        let keep: HashSet<String> = pods.iter().map(PodKey::directory).collect();
        for name in names(&self.inner.dir).filter(|name| !keep.contains(name)) {
            // Only what looks like one of ours: the directory is the user's.
            if name.split('_').count() == 3 {
                self.ask(Job::Remove(self.inner.dir.join(name)));
            }
        }
    }

    fn ask(&self, job: Job) {
        // Without a thread, the process is ending.
        let _ = self.inner.jobs.send(job);
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Weak<ContainerLog>>> {
        self.inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(todo: &mpsc::Receiver<Job>) {
    for job in todo {
        match job {
            Job::Flush(log) => log.flush(),
            Job::Prune { dir, before } => prune(&dir, before),
            Job::Remove(dir) => {
                if let Err(error) = fs::remove_dir_all(&dir)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(dir = %dir.display(), %error, "cannot remove logs");
                }
            }
        }
    }
}

fn prune(dir: &Path, before: u32) {
    let attempt = |name: &str| name.split_once(".log")?.0.parse::<u32>().ok();
    for name in names(dir).filter(|name| attempt(name).is_some_and(|attempt| attempt < before)) {
        if let Err(error) = fs::remove_file(dir.join(&name)) {
            tracing::warn!(dir = %dir.display(), name, %error, "cannot remove a log");
        }
    }
}

#[cfg(test)]
mod tests;
