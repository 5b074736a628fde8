//! The backend on disk: one file, in which redb keeps B-trees.
//!
//! Enter at [`Redb`]. `format` says what is in the file; `writer` is the one thread that writes it; `snapshot` is how it
//! is read; `shared` is what these have in common.

mod error;
mod format;
mod queue;
mod shared;
mod snapshot;
mod transaction;
mod writer;

use std::{
    fmt,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase as _, TableError};
use tokio::sync::oneshot;

pub use error::OpenError;
pub(crate) use error::OpenFailure;

use self::{
    error::DiskError,
    format::{FORMAT, INDEX, LOG, Position, STATE, state},
    queue::{Compaction, Pending, Queue, Rejected},
    shared::Shared,
    snapshot::Snapshot,
    writer::{Opener, Writer},
};
use crate::{
    BackendError, CommitError, Committed, CompactError, KeyValue, Limits, Page, Range, ReadError,
    Revision, Store, Watch, WatchError, Write, memory::check_readable, watch,
};

/// Ranges of at most so many items are read where they are asked for; longer ones on a thread that may block.
const SHORT_RANGE: usize = 32;

/// How long to leave a failed database alone before it is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// How a [`Redb`] works. The defaults suit a cluster of some hundred nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How large a key or a value may be.
    pub limits: Limits,
    /// Most writes that wait for the disk; more are refused with [`CommitError::Full`]. Default 8192.
    pub queue_writes: usize,
    /// Most bytes of keys and values that wait for the disk. Default 64 MiB.
    pub queue_bytes: usize,
    /// Memory for the newest events. A watcher further behind reads from disk. Default 8 MiB.
    pub recent_bytes: usize,
    /// Memory for pages of the file. Default 32 MiB.
    pub cache_bytes: usize,
    /// Whether to verify the checksums of the whole file when it is opened, which takes about a second for each
    /// gigabyte. Without it, damage that happened while the file was closed may go unnoticed. Default true.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            limits: Limits::default(),
            queue_writes: 8192,
            queue_bytes: 64 * MIB,
            recent_bytes: 8 * MIB,
            cache_bytes: 32 * MIB,
            verify: true,
        }
    }
}

/// A [`Store`] in one file, durable, for one process at a time.
///
/// Its methods are called within a tokio runtime. [`close`](Store::close) or drop it to release the file; both wait for
/// the writes that have begun.
pub struct Redb {
    shared: Arc<Shared>,
    limits: Limits,
    /// `None` only while dropping.
    writer: Option<JoinHandle<()>>,
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redb")
            .field("revision", &self.revision())
            .field("compacted", &self.compacted())
            .finish_non_exhaustive()
    }
}

impl Redb {
    /// Opens the database in the file `path`, or makes a new one there, readable by its owner alone.
    ///
    /// Blocks: after a crash, and with [`Options::verify`], the whole file is read.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let file = path.clone();
        let open = move |builder: &Builder| {
            create(&file, builder)?;
            Ok(builder.open(&file)?)
        };
        Self::start(open, options, REOPEN_PAUSE).map_err(|failure| failure.at(&path))
    }

    /// Starts a store over what `open` opens, now and, no sooner than `pause` later, after a failure.
    pub(crate) fn start(
        open: impl Fn(&Builder) -> Result<Database, OpenFailure> + Send + 'static,
        options: Options,
        pause: Duration,
    ) -> Result<Self, OpenFailure> {
        let Options {
            limits,
            queue_writes,
            queue_bytes,
            recent_bytes,
            cache_bytes,
            verify,
        } = options;
        let opener: Opener = Box::new(move || {
            let mut builder = Builder::new();
            builder
                .set_cache_size(cache_bytes)
                .set_check_integrity_on_open(verify);
            let db = open(&builder)?;
            let position = load_or_initialize(&db)?;
            Ok((db, position))
        });
        let (db, position) = opener()?;
        let snapshot = Snapshot::take(&db, position)?;
        let shared = Arc::new(Shared::new(
            Queue::new(queue_writes, queue_bytes),
            snapshot,
            recent_bytes,
        ));
        let writer = Writer::new(shared.clone(), opener, pause, db, position);
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            limits,
            writer: Some(writer),
        })
    }
}

/// Makes the database if it is absent, under another name first: a crash in the middle must not leave something that
/// is neither a database nor nothing.
fn create(path: &Path, builder: &Builder) -> Result<(), OpenFailure> {
    if path.try_exists()? {
        return Ok(());
    }
    let unfinished = path.with_added_extension("new");
    match make(&unfinished, builder) {
        Err(OpenFailure::Damaged(_)) => {
            // A crash left it.
            fs::remove_file(&unfinished)?;
            make(&unfinished, builder)?;
        }
        made => made?,
    }
    // Unlike a rename, this replaces nothing that another process may have put there meanwhile.
    match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fs::rename(&unfinished, path)?,
        linked => linked?,
    }
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    sync_dir_of(path)?;
    Ok(())
}

/// Makes an empty database in a file that only its owner can read.
fn make(path: &Path, builder: &Builder) -> Result<(), OpenFailure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    load_or_initialize(&builder.create(path)?)?;
    Ok(())
}

/// Makes sure that the name of a new file survives a crash.
fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    File::open(dir)?.sync_all()
}

/// Where the database stands; a new one is given its tables first.
fn load_or_initialize(db: &Database) -> Result<Position, OpenFailure> {
    if let Some(position) = load(db)? {
        return Ok(position);
    }
    initialize(db)?;
    Ok(Position::START)
}

/// Where the database stands; `None` if it was just made.
fn load(db: &Database) -> Result<Option<Position>, OpenFailure> {
    let transaction = db.begin_read().map_err(DiskError::from)?;
    let table = match transaction.open_table(STATE) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => {
            let mut others = transaction.list_tables()?;
            return match others.next() {
                None => Ok(None),
                Some(_) => Err(OpenFailure::Damaged(
                    "it is the database of another program".to_owned(),
                )),
            };
        }
        Err(error) => return Err(DiskError::from(error).into()),
    };
    let read = |name: &str| match table.get(name)? {
        Some(value) => Ok(value.value()),
        None => Err(OpenFailure::Damaged(format!("it does not say its {name}"))),
    };
    match read(state::FORMAT)? {
        FORMAT => {}
        newer if newer > FORMAT => return Err(OpenFailure::NewerFormat(newer)),
        unknown => {
            return Err(OpenFailure::Damaged(format!(
                "it has the unknown format {unknown}"
            )));
        }
    }
    let position = Position {
        revision: read(state::REVISION)?,
        compacted: read(state::COMPACTED)?,
        swept: read(state::SWEPT)?,
    };
    if position.compacted > position.revision || position.swept > position.revision {
        return Err(OpenFailure::Damaged(format!(
            "its revisions contradict each other: {position:?}"
        )));
    }
    Ok(Some(position))
}

fn initialize(db: &Database) -> Result<(), DiskError> {
    let transaction = db.begin_write()?;
    transaction.open_table(INDEX)?;
    transaction.open_table(LOG)?;
    transaction
        .open_table(STATE)?
        .insert(state::FORMAT, FORMAT)?;
    transaction::save_position(&transaction, Position::START, None)?;
    transaction.commit()?;
    Ok(())
}

/// The writer was lost with what it had in hand.
#[derive(Debug, thiserror::Error)]
#[error("the writer has stopped")]
struct WriterGone;

fn writer_gone() -> BackendError {
    Arc::new(WriterGone)
}

#[async_trait]
impl Store for Redb {
    async fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<(Option<KeyValue>, Revision), ReadError> {
        let snapshot = self.shared.snapshot()?;
        let at = check_readable(at, snapshot.position.revision, snapshot.position.compacted)?;
        let kv = snapshot.get(key, at).map_err(shared::Unreadable::from)?;
        Ok((kv, at))
    }

    async fn range(&self, range: Range) -> Result<Page, ReadError> {
        let snapshot = self.shared.snapshot()?;
        let at = check_readable(
            range.at,
            snapshot.position.revision,
            snapshot.position.compacted,
        )?;
        if range.limit.is_some_and(|limit| limit <= SHORT_RANGE) {
            return Ok(snapshot
                .range(&range, at)
                .map_err(shared::Unreadable::from)?);
        }
        Ok(Shared::read_blocking(snapshot, move |snapshot| snapshot.range(&range, at)).await?)
    }

    async fn commit(&self, write: Write) -> Result<Committed, CommitError> {
        self.limits.check(&write)?;
        let (done, answer) = oneshot::channel();
        self.shared
            .queue
            .write(Pending { write, done })
            .map_err(|rejected| match rejected {
                Rejected::Full => CommitError::Full,
                Rejected::Closed => CommitError::Closed,
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(CommitError::Backend(writer_gone())))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, WatchError> {
        let compacted = self.shared.snapshot()?.position.compacted;
        if after < compacted {
            return Err(WatchError::Compacted {
                requested: after,
                compacted,
            });
        }
        Ok(watch::watch(
            self.shared.clone(),
            &self.shared.head,
            prefix,
            after,
        ))
    }

    async fn compact(&self, to: Revision) -> Result<(), CompactError> {
        // Revisions only grow: what is not in the future now is not when its turn comes.
        let current = self.revision();
        if to > current {
            return Err(CompactError::Future {
                requested: to,
                current,
            });
        }
        let (done, answer) = oneshot::channel();
        self.shared
            .queue
            .compact(Compaction { to, done })
            .map_err(|_| CompactError::Closed)?;
        answer
            .await
            .unwrap_or_else(|_| Err(CompactError::Backend(writer_gone())))
    }

    fn revision(&self) -> Revision {
        self.shared.revision()
    }

    fn compacted(&self) -> Revision {
        self.shared.compacted()
    }

    async fn close(&self) {
        self.shared.queue.close();
        // Fails only if the store is gone, which cannot be: it is borrowed.
        let _ = self
            .shared
            .head
            .subscribe()
            .wait_for(|state| state.closed)
            .await;
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported where it happened.
            let _ = writer.join();
        }
    }
}
