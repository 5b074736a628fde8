//! From a guest's memory to disk.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    mem,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;
use tokio::sync::watch;
use vaquita_runtime::{LogSink, LogStream};

use super::{Files, Job, cri};
use crate::LogLimits;

/// Bytes in memory from which on writers have to wait.
const FULL: usize = 256 << 10;
/// Bytes in memory from which on lines are lost: writers that do not wait are many, or the disk is stuck.
const OVERFULL: usize = 8 << 20;

/// The log of one container instance while it is written.
pub struct ContainerLog {
    files: Files,
    limits: LogLimits,
    jobs: mpsc::Sender<Job>,
    pending: Mutex<Pending>,
    output: Mutex<Output>,
    progress: watch::Sender<Progress>,
}

/// What is not on disk yet.
#[derive(Default)]
struct Pending {
    buffer: Vec<u8>,
    /// Bytes ever put into the buffer.
    appended: u64,
    is_queued: bool,
    is_closed: bool,
    lost: u64,
    wakers: Vec<Waker>,
}

/// The file that is written to. Whoever opens a file of the log to read it holds this, so that none is renamed
/// meanwhile.
#[derive(Default)]
struct Output {
    /// What the current file will be called when it is put aside; `None` until somebody needs to know.
    number: Option<u64>,
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of this instance's log that were written to disk, or could not be.
    pub(super) written: u64,
    /// Whether nothing will come any more.
    pub(super) is_closed: bool,
}

/// A file of the log, open.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: File,
}

impl ContainerLog {
    pub(super) fn new(files: Files, limits: LogLimits, jobs: mpsc::Sender<Job>) -> Self {
        Self {
            files,
            limits,
            jobs,
            pending: Mutex::default(),
            output: Mutex::default(),
            progress: watch::Sender::default(),
        }
    }

    pub(super) fn attempt(&self) -> u32 {
        self.files.attempt
    }

    /// Says that the instance has ended: who follows the log comes to its end.
    pub fn close(self: &Arc<Self>) {
        let mut pending = self.pending();
        pending.is_closed = true;
        self.queue(pending);
    }

    /// Waits until what was logged before the call is on disk.
    pub(super) async fn settled(&self) {
        let appended = self.pending().appended;
        let mut progress = self.progress.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = progress
            .wait_for(|progress| progress.written >= appended)
            .await;
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Opens all files that there are, oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<Segment>> {
        self.segments_from(0)
    }

    /// Opens those files that come after one, which must have been open; empty if there is none.
    pub(super) fn segments_after(&self, number: u64) -> io::Result<Vec<Segment>> {
        self.segments_from(number + 1)
    }

    fn segments_from(&self, first: u64) -> io::Result<Vec<Segment>> {
        let mut output = lock(&self.output);
        let current = output.number(&self.files);
        let aside = self
            .files
            .numbers()
            .into_iter()
            .map(|number| (number, self.files.aside(number)));
        open_all(
            aside
                .chain([(current, self.files.current())])
                .filter(|(number, _)| *number >= first),
        )
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    /// Has the writing thread look here, unless it will anyway.
    fn queue(self: &Arc<Self>, mut pending: MutexGuard<'_, Pending>) {
        if !mem::replace(&mut pending.is_queued, true) {
            drop(pending);
            // Without a thread, the process is ending.
            let _ = self.jobs.send(Job::Flush(self.clone()));
        }
    }

    /// Writes what is pending. Called by the writing thread alone.
    pub(super) fn flush(&self) {
        let (chunk, is_closed, wakers) = {
            let mut pending = self.pending();
            pending.is_queued = false;
            let lost = mem::take(&mut pending.lost);
            let mut chunk = mem::take(&mut pending.buffer);
            if lost > 0 {
                let message = format!(
                    "vaquita: {lost} lines are missing here: they came faster than they could be written\n"
                );
                let before = chunk.len();
                cri::append(
                    &mut chunk,
                    Timestamp::now(),
                    LogStream::Stderr,
                    message.as_bytes(),
                );
                pending.appended += (chunk.len() - before) as u64;
            }
            (chunk, pending.is_closed, mem::take(&mut pending.wakers))
        };
        if !chunk.is_empty()
            && let Err(error) = lock(&self.output).write(&self.files, &self.limits, &chunk)
        {
            let path = self.files.current();
            tracing::warn!(path = %path.display(), bytes = chunk.len(), %error, "a part of a log is lost");
        }
        self.progress.send_modify(|progress| {
            progress.written += chunk.len() as u64;
            progress.is_closed = is_closed;
        });
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Output {
    fn number(&mut self, files: &Files) -> u64 {
        *self
            .number
            .get_or_insert_with(|| files.numbers().last().map_or(0, |last| last + 1))
    }

    fn write(&mut self, files: &Files, limits: &LogLimits, chunk: &[u8]) -> io::Result<()> {
        let path = files.current();
        let mut file = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&files.dir)?;
                open(&path)?
            }
            opened => opened?,
        };
        if file.metadata()?.len() >= limits.file_bytes {
            self.put_aside(files, limits)?;
            file = open(&path)?;
        }
        file.write_all(chunk)
    }

    fn put_aside(&mut self, files: &Files, limits: &LogLimits) -> io::Result<()> {
        let number = self.number(files);
        fs::rename(files.current(), files.aside(number))?;
        self.number = Some(number + 1);
        // The current file counts too.
        let keep = u64::from(limits.files.max(2) - 1);
        for old in files
            .numbers()
            .into_iter()
            .filter(|old| old + keep <= number)
        {
            fs::remove_file(files.aside(old))?;
        }
        Ok(())
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Opens files to read them; those that do not exist are left out.
pub(super) fn open_all(files: impl Iterator<Item = (u64, PathBuf)>) -> io::Result<Vec<Segment>> {
    let open = |(number, path)| match File::open(path) {
        Ok(file) => Some(Ok(Segment { number, file })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error)),
    };
    files.filter_map(open).collect()
}

/// What a container writes goes here.
pub(crate) struct Sink(pub(super) Arc<ContainerLog>);

impl ContainerLog {
    /// The end that a container is given.
    pub fn sink(self: &Arc<Self>) -> Arc<dyn LogSink> {
        Arc::new(Sink(self.clone()))
    }
}

impl LogSink for Sink {
    fn write(&self, stream: LogStream, line: &[u8]) {
        let mut pending = self.0.pending();
        if pending.buffer.len() >= OVERFULL {
            pending.lost += 1;
            return;
        }
        let before = pending.buffer.len();
        cri::append(&mut pending.buffer, Timestamp::now(), stream, line);
        pending.appended += (pending.buffer.len() - before) as u64;
        self.0.queue(pending);
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut pending = self.0.pending();
        if pending.buffer.len() < FULL {
            return Poll::Ready(());
        }
        if !pending
            .wakers
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            pending.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
