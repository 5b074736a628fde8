//! The one who writes.
//!
//! A thread of its own takes everything that is queued, does it in one transaction with one fsync, and then lets
//! readers see it, hands the events to the watchers and answers the waiting, in this order. While it waits for the
//! disk the next batch gathers: the busier the store, the more writes share an fsync.
//!
//! When the storage fails, nothing is known about the batch at hand, and its writers are told so. The database is
//! closed; the next write opens it again and finds out. A full disk thus needs no restart once there is space again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redb::Database;

use super::{
    error::{DiskError, OpenFailure},
    format::Position,
    queue::Batch,
    shared::{Reading, Shared},
    snapshot::Snapshot,
    transaction::{self, Outcome, Tables},
};
use crate::{BackendError, CommitError, Committed, CompactError, Event};

/// Opens the database, again after it failed.
pub(super) type Opener = Box<dyn Fn() -> Result<(Database, Position), OpenFailure> + Send>;

/// Revisions that are swept at one go while nobody writes. A write that comes then waits for some milliseconds.
const SWEEP_ALONE: u64 = 256;
/// How long nobody must have written for that.
const QUIET: Duration = Duration::from_millis(2);

/// Revisions that are swept along with so many writes, which wait for it: few, but more than the writes add.
fn sweep_beside(writes: usize) -> u64 {
    u64::try_from(writes)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        .clamp(16, SWEEP_ALONE)
}

pub(super) struct Writer {
    /// Dropped before everybody learns that the store is closed.
    disk: Disk,
    /// Where the published state stands.
    position: Position,
    opener: Opener,
    /// How long to leave a failed database alone before it is opened again.
    pause: Duration,
    shared: Arc<Shared>,
    _end: End,
}

enum Disk {
    Open(Database),
    Failed { error: BackendError, since: Instant },
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        opener: Opener,
        pause: Duration,
        db: Database,
        position: Position,
    ) -> Self {
        Self {
            disk: Disk::Open(db),
            position,
            opener,
            pause,
            _end: End(shared.clone()),
            shared,
        }
    }

    /// Writes until the queue is closed.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.shared.queue.take(self.can_sweep().then_some(QUIET)) {
            self.step(batch);
        }
    }

    fn can_sweep(&self) -> bool {
        matches!(self.disk, Disk::Open(_)) && self.position.unswept()
    }

    fn step(&mut self, batch: Batch) {
        self.reopen_if_failed();
        let db = match &self.disk {
            Disk::Open(db) => db,
            Disk::Failed { error, .. } => return refuse(batch, error),
        };
        match transact(db, self.position, &batch) {
            Ok((position, outcomes)) => {
                let snapshot = Snapshot::take(db, position);
                self.position = position;
                match snapshot {
                    Ok(snapshot) => self.show(snapshot),
                    Err(error) => self.fail(error.shared()),
                }
                self.answer(batch, outcomes);
            }
            Err(error) => {
                let error = error.shared();
                self.fail(error.clone());
                refuse(batch, &error);
            }
        }
    }

    /// Lets readers see the newest state.
    fn show(&self, snapshot: Snapshot) {
        let Position {
            revision,
            compacted,
            ..
        } = self.position;
        self.shared
            .show(revision, compacted, Reading::Open(Arc::new(snapshot)));
    }

    /// Publishes what a transaction did and answers those who wait for it.
    fn answer(&self, batch: Batch, outcomes: Vec<Outcome>) {
        let mut events = Vec::with_capacity(outcomes.len());
        let mut answers = Vec::with_capacity(outcomes.len());
        for (pending, outcome) in batch.writes.into_iter().zip(outcomes) {
            let result = outcome.map(|event| {
                let committed = Committed {
                    revision: event.kv.mod_revision,
                    prev: event.prev.clone(),
                };
                events.push(event);
                committed
            });
            answers.push((pending.done, result));
        }
        self.shared.publish(events, self.position.revision);
        // Whoever has stopped waiting does not want to know.
        for (done, result) in answers {
            let _ = done.send(result);
        }
        for compaction in batch.compactions {
            let _ = compaction.done.send(Ok(()));
        }
    }

    fn fail(&mut self, error: BackendError) {
        tracing::error!("the store's database failed: {error}");
        self.shared.hide(Reading::Failed(error.clone()));
        self.disk = Disk::Failed {
            error,
            since: Instant::now(),
        };
    }

    fn reopen_if_failed(&mut self) {
        match &self.disk {
            Disk::Failed { since, .. } if since.elapsed() >= self.pause => {}
            Disk::Failed { .. } | Disk::Open(_) => return,
        }
        match self.reopen() {
            Ok(()) => tracing::info!(
                "the store's database works again at revision {}",
                self.position.revision
            ),
            Err(error) => self.fail(error),
        }
    }

    /// Goes on from what the disk has, which is all that was acknowledged and perhaps more.
    fn reopen(&mut self) -> Result<(), BackendError> {
        let (db, position) =
            (self.opener)().map_err(|failure| -> BackendError { Arc::new(failure) })?;
        if position.revision < self.position.revision {
            let error = DiskError::Damaged("writes that were acknowledged are gone");
            return Err(error.shared());
        }
        let snapshot = Snapshot::take(&db, position).map_err(DiskError::shared)?;
        let mut unseen: Vec<Event> = Vec::new();
        let mut seen = self.position.revision;
        while seen < position.revision {
            let chunk = snapshot.events(&[], seen).map_err(DiskError::shared)?;
            seen = chunk.through;
            unseen.extend(chunk.events);
        }
        self.position = position;
        self.disk = Disk::Open(db);
        self.show(snapshot);
        self.shared.publish(unseen, position.revision);
        Ok(())
    }
}

/// However the writer ends, by a panic too, everybody learns of it.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.queue.close();
        // Only a panic leaves something here. Its writers see that nobody will answer.
        drop(self.0.queue.take(Some(Duration::ZERO)));
        self.0.hide(Reading::Closed);
        self.0.head.close();
    }
}

/// Does a batch in one transaction, durably. Without anything to write down, no transaction is made.
fn transact(
    db: &Database,
    before: Position,
    batch: &Batch,
) -> Result<(Position, Vec<Outcome>), DiskError> {
    let transaction = db.begin_write()?;
    let mut tables = Tables::open(&transaction, before)?;
    let mut outcomes = Vec::with_capacity(batch.writes.len());
    for pending in &batch.writes {
        outcomes.push(tables.apply(&pending.write)?);
    }
    for compaction in &batch.compactions {
        tables.position.compacted = tables.position.compacted.max(compaction.to);
    }
    if tables.position.unswept() {
        let most = if batch.is_empty() {
            SWEEP_ALONE
        } else {
            sweep_beside(batch.writes.len())
        };
        tables.sweep(most)?;
    }
    let position = tables.position;
    drop(tables);
    if position == before {
        transaction.abort()?;
    } else {
        transaction::save_position(&transaction, position, Some(before))?;
        transaction.commit()?;
    }
    Ok((position, outcomes))
}

fn refuse(batch: Batch, error: &BackendError) {
    for pending in batch.writes {
        let _ = pending.done.send(Err(CommitError::Backend(error.clone())));
    }
    for compaction in batch.compactions {
        let _ = compaction
            .done
            .send(Err(CompactError::Backend(error.clone())));
    }
}
