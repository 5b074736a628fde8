//! Cron jobs: a job whenever the clock says so.
//!
//! [`schedule`] reckons with clocks, `look` decides what is due and acts. A job's name has the minute that it was due at, so
//! that none is made twice, whenever the process stops.

mod look;
mod schedule;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::batch::v1::{CronJob, Job};

use self::look::Look;
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// Between two looks at the same cron job.
const PACE: Duration = Duration::from_millis(10);

/// Why a look at a cron job failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A job that is said to be active could not be read.
    #[error("reading an active job")]
    Active(#[source] kube::Error),
    /// A job that is due could not be created.
    #[error("creating a job")]
    Create(#[source] kube::Error),
    /// The name of a job that is due is taken by somebody else's.
    #[error("the name {0} is taken by a job of somebody else")]
    Taken(String),
    /// A job that is to be replaced, or that ended long ago, could not be deleted.
    #[error("deleting a job")]
    Delete(#[source] kube::Error),
    /// The status could not be written.
    #[error("updating the status")]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: PACE,
        ..Pacing::default()
    });
    let controller = Arc::new(Controller {
        cron_jobs: context.informers.of(),
        jobs: context.informers.of(),
        recorder: context.recorder("cronjob-controller"),
        queue: queue.clone(),
        context: context.clone(),
    });
    if !(controller.cron_jobs.synced().await && controller.jobs.synced().await) {
        return;
    }
    let listener = Arc::clone(&controller);
    controller
        .cron_jobs
        .subscribe(move |change| listener.queue.add(ObjectKey::of(change.object())));
    let listener = Arc::clone(&controller);
    controller
        .jobs
        .subscribe(move |change| listener.job_changed(change));
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
    queue: WorkQueue<ObjectKey>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "cronjob-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(cron_job) = self.cron_jobs.store().get(key) else {
            return Ok(Next::Wait);
        };
        let jobs = self.jobs.store().controlled_by(meta::uid(&*cron_job));
        // On the heap: a cron job is a large object, and a look holds several.
        Box::pin(Look::new(self, key, &cron_job, jobs).advance()).await
    }
}

impl Controller {
    fn job_changed(&self, change: &Change<'_, Job>) {
        if let Some(cron_job) = self.cron_jobs.store().controlling(change.object()) {
            self.queue.add(ObjectKey::of(&*cron_job));
        }
    }
}

#[cfg(test)]
mod tests;
