//! One look at a job: counts what has ended, decides how it stands, and only then starts or stops pods.
//!
//! The status is written first. A look at an old copy fails there, by the version it names, before it could start a pod twice.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec, JobStatus},
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{
    Controller, SyncError, retries,
    status::{self, View},
};
use crate::replicas::{self, Hand};
use vaquita_reconcile::{ObjectKey, drive::Next, meta};

/// Where a pod's containers read which completion they work on.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// When to look again if what was asked for is not seen: an event may have been lost.
const SECOND_LOOK: Duration = Duration::from_mins(1);
/// Why jobs fail.
const FAILURES: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "PodFailurePolicy",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
];
/// The longest name of a host.
const HOSTNAME_LIMIT: usize = 63;

pub(super) struct Look<'c> {
    controller: &'c Controller,
    key: &'c ObjectKey,
    job: Arc<Job>,
    spec: JobSpec,
    /// All pods there are, those that have ended included.
    pods: Vec<Arc<Pod>>,
    /// As it is to be reported.
    status: JobStatus,
    now: Timestamp,
}

impl<'c> Look<'c> {
    pub(super) fn new(
        controller: &'c Controller,
        key: &'c ObjectKey,
        job: &Arc<Job>,
        pods: Vec<Arc<Pod>>,
    ) -> Self {
        Self {
            controller,
            key,
            job: Arc::clone(job),
            spec: job.spec.clone().unwrap_or_default(),
            pods,
            status: job.status.clone().unwrap_or_default(),
            now: controller.context.now(),
        }
    }

    /// Takes the next step. `all_seen` says whether the pods are known to be all there are.
    pub(super) async fn advance(mut self, all_seen: bool) -> Result<Next, SyncError> {
        if status::is_finished(&self.status) {
            return self.after_the_end().await;
        }
        self.suspend_or_start();
        let mut status = std::mem::take(&mut self.status);
        self.view().count_ends(&mut status);
        self.view().count_pods(&mut status);
        self.status = status;
        self.judge();
        self.conclude();
        self.report().await?;
        self.release_counted().await?;
        let stopping = status::holds(&self.status, status::FAILURE)
            || status::holds(&self.status, status::SUCCESS);
        let wait = if stopping {
            self.stop_all().await?;
            Duration::ZERO
        } else if self.is_suspended() {
            self.give_up(self.view().active()).await?;
            Duration::ZERO
        } else if all_seen && !self.view().is_going() {
            self.adjust().await?
        } else {
            Duration::ZERO
        };
        let times = [
            Some(wait).filter(|wait| !wait.is_zero()),
            self.view().deadline(&self.status).filter(|_| !stopping),
            Some(SECOND_LOOK).filter(|_| !all_seen),
        ];
        // A moment later, so that the time is over however it was rounded.
        let next = times.into_iter().flatten().min();
        Ok(next.map_or(Next::Wait, |next| {
            Next::After(next + Duration::from_millis(10))
        }))
    }

    fn view(&self) -> View<'_> {
        View {
            job: &self.job,
            spec: &self.spec,
            pods: &self.pods,
            now: self.now,
        }
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// The clock of the deadline runs while the job is not suspended.
    fn suspend_or_start(&mut self) {
        let (now, status) = (self.now, &mut self.status);
        let recorder = &self.controller.recorder;
        if self.spec.suspend == Some(true) {
            if status::set(
                status,
                status::SUSPENDED,
                "True",
                "JobSuspended",
                "Job suspended",
                now,
            ) {
                status.start_time = None;
                recorder.normal(&*self.job, "Suspended", "Job suspended".to_owned());
            }
            return;
        }
        if status::find(status, status::SUSPENDED).is_some()
            && status::set(
                status,
                status::SUSPENDED,
                "False",
                "JobResumed",
                "Job resumed",
                now,
            )
        {
            status.start_time = Some(Time(now));
            recorder.normal(&*self.job, "Resumed", "Job resumed".to_owned());
        }
        status.start_time.get_or_insert(Time(now));
    }

    /// Notes that the job has failed or succeeded; what still runs is stopped before that is the end.
    fn judge(&mut self) {
        if status::holds(&self.status, status::FAILURE)
            || status::holds(&self.status, status::SUCCESS)
        {
            return;
        }
        let failure = self.view().failure(&self.status);
        let failure = failure.map(|(reason, message)| (status::FAILURE, reason, message));
        let settled = failure.or_else(|| {
            let success = self.view().success(&self.status)?;
            Some((status::SUCCESS, success.0, success.1))
        });
        if let Some((type_, reason, message)) = settled {
            status::set(&mut self.status, type_, "True", reason, &message, self.now);
        }
    }

    /// Ends the job once all of its pods have ended and are counted.
    fn conclude(&mut self) {
        let noted = self.status.uncounted_terminated_pods.as_ref();
        let all_counted =
            noted.is_none_or(|noted| noted.succeeded.is_none() && noted.failed.is_none());
        let at_work = self.status.active.unwrap_or(0) + self.status.terminating.unwrap_or(0);
        if !all_counted || at_work > 0 || self.view().has_more_to_count(&self.status) {
            return;
        }
        let end =
            |type_: &str| status::find(&self.status, type_).filter(|found| found.status == "True");
        let (type_, because) = match (end(status::FAILURE), end(status::SUCCESS)) {
            (Some(because), _) => (status::FAILED, because.clone()),
            (None, Some(because)) => (status::COMPLETE, because.clone()),
            (None, None) => return,
        };
        let reason = because.reason.unwrap_or_default();
        let message = because.message.unwrap_or_default();
        status::set(&mut self.status, type_, "True", &reason, &message, self.now);
        if type_ == status::COMPLETE {
            self.status.completion_time = Some(Time(self.now));
        }
        // A job that ended while it was suspended has never begun.
        self.status.start_time.get_or_insert(Time(self.now));
    }

    async fn report(&self) -> Result<(), SyncError> {
        if self.job.status.as_ref() == Some(&self.status) {
            return Ok(());
        }
        let mut updated = Job::clone(&self.job);
        updated.status = Some(self.status.clone());
        let api = self.api::<Job>();
        let written = api
            .replace_status(&self.key.name, &PostParams::default(), &updated)
            .await;
        let written = written.map_err(SyncError::Status)?;
        self.controller.note_written(self.key, &written);
        let recorder = &self.controller.recorder;
        if status::holds(&self.status, status::COMPLETE) {
            recorder.normal(&*self.job, "Completed", "Job completed".to_owned());
        } else if let Some(failed) = status::find(&self.status, status::FAILED) {
            let message = failed.message.clone().unwrap_or_default();
            let reason = FAILURES
                .iter()
                .find(|known| failed.reason.as_deref() == Some(known));
            let reason = reason.copied().unwrap_or("BackoffLimitExceeded");
            recorder.warning(&*self.job, reason, message);
        }
        Ok(())
    }

    /// Lets those pods go whose end is in the status by now.
    async fn release_counted(&self) -> Result<(), SyncError> {
        let Some(noted) = &self.status.uncounted_terminated_pods else {
            return Ok(());
        };
        let uids: Vec<_> = [&noted.succeeded, &noted.failed]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let counted = self.pods.iter().filter(|pod| {
            status::is_tracked(pod) && uids.iter().any(|uid| *uid == meta::uid(&***pod))
        });
        let ignored = self.view().ignored(&self.status);
        try_join_all(
            counted
                .chain(&ignored)
                .map(|pod| self.controller.release(pod)),
        )
        .await
        .map(drop)
    }

    /// Starts or gives up pods until as many are at work as are wanted. Returns how long to wait before more are started.
    async fn adjust(&self) -> Result<Duration, SyncError> {
        let mut misplaced = self.view().misplaced();
        let burst = self.controller.context.options.replica_burst.max(1);
        if !misplaced.is_empty() {
            misplaced.truncate(burst);
            self.give_up(misplaced).await?;
            return Ok(Duration::ZERO);
        }
        let mut active = self.view().active();
        let wanted = self.view().wanted(&self.status);
        let going = if status::replaces_ended_only(&self.spec) {
            self.view().terminating()
        } else {
            0
        };
        match (active.len() + going).cmp(&wanted) {
            Ordering::Greater if active.len() > wanted => {
                let related = active.clone();
                replicas::sort_for_deletion(&mut active, &related, self.now);
                active.truncate((active.len() - wanted).min(burst));
                self.give_up(active).await?;
            }
            // What is going makes up the rest.
            Ordering::Equal | Ordering::Greater => {}
            Ordering::Less => {
                let backoff = self.view().backoff();
                if !backoff.is_zero() {
                    return Ok(backoff);
                }
                let missing = wanted - active.len() - going;
                return self.start(missing.min(burst)).await;
            }
        }
        Ok(Duration::ZERO)
    }

    /// Starts at most so many pods. Returns how long to wait before more are started.
    async fn start(&self, count: usize) -> Result<Duration, SyncError> {
        let (models, wait): (Vec<Pod>, _) = if status::is_indexed(&self.spec) {
            let (indexes, wait) = self.view().free_indexes(&self.status, count);
            let models = indexes.into_iter();
            let models = models.map(|(index, before)| self.indexed_model(index, before.as_deref()));
            (models.collect(), wait)
        } else {
            (vec![self.model(); count], None)
        };
        let count = models.len();
        let mut models = models.into_iter();
        let hand = self.hand();
        self.controller
            .expectations
            .expect_creations(self.key, count);
        let (created, result) = replicas::slow_start(count, || {
            let (model, hand) = (models.next(), &hand);
            async move {
                match model {
                    Some(model) => hand.create(&model).await,
                    None => Ok(()),
                }
            }
        })
        .await;
        self.controller
            .expectations
            .creations_seen(self.key, count - created);
        result
            .or_else(|error| hand.creation_failed(error))
            .map_err(SyncError::Create)?;
        Ok(wait.unwrap_or_default())
    }

    fn hand(&self) -> Hand<'_, Job> {
        Hand {
            client: &self.controller.context.client,
            recorder: &self.controller.recorder,
            owner: &self.job,
        }
    }

    fn model(&self) -> Pod {
        let mut pod = replicas::pod_from_template(&*self.job, &self.spec.template);
        pod.finalizers_mut().push(status::FINALIZER.to_owned());
        pod
    }

    /// A pod for one completion: its name, host name, label and environment tell which.
    fn indexed_model(&self, index: i32, before: Option<&Pod>) -> Pod {
        let mut pod = self.model();
        if self.view().limit_per_index().is_some() {
            let failures = before.map(|before| self.view().failures_with(before));
            let failures = failures.unwrap_or_default();
            let annotations = pod.annotations_mut();
            annotations.insert(retries::FAILURES.to_owned(), failures.counted.to_string());
            if failures.ignored > 0 {
                annotations.insert(retries::IGNORED.to_owned(), failures.ignored.to_string());
            }
        }
        let name = self.job.name_any();
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
        pod.annotations_mut()
            .insert(status::INDEX.to_owned(), index.to_string());
        pod.labels_mut()
            .insert(status::INDEX.to_owned(), index.to_string());
        let Some(spec) = &mut pod.spec else {
            return pod;
        };
        let mut hostname = format!("{name}-{index}");
        if hostname.len() > HOSTNAME_LIMIT {
            let ending = format!("-{index}");
            let room = name.floor_char_boundary(HOSTNAME_LIMIT - ending.len());
            hostname = format!("{}{ending}", &name[..room]);
        }
        spec.hostname.get_or_insert(hostname);
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            let variables = container.env.get_or_insert_default();
            if !variables
                .iter()
                .any(|variable| variable.name == INDEX_VARIABLE)
            {
                variables.push(index_variable());
            }
        }
        pod
    }

    /// Deletes pods that are not to be counted: nothing is wrong with them, they are only too many.
    async fn give_up(&self, pods: Vec<Arc<Pod>>) -> Result<(), SyncError> {
        self.expect_deletions(&pods);
        let each = pods.iter().map(|pod| async move {
            if status::is_tracked(pod) {
                self.controller.release(pod).await?;
            }
            self.delete(pod).await
        });
        self.forget_on_error(&pods, try_join_all(each).await.map(drop))
    }

    /// Deletes all that is still at work after the job's fate is settled. They are counted when they have ended.
    async fn stop_all(&self) -> Result<(), SyncError> {
        let pods = self.view().active();
        self.expect_deletions(&pods);
        let result = try_join_all(pods.iter().map(|pod| self.delete(pod))).await;
        self.forget_on_error(&pods, result.map(drop))
    }

    fn expect_deletions(&self, pods: &[Arc<Pod>]) {
        if !pods.is_empty() {
            let uids = pods.iter().map(|pod| meta::uid(&**pod).to_owned());
            self.controller
                .expectations
                .expect_deletions(self.key, uids);
        }
    }

    /// What failed will be tried again, and must not be waited for.
    fn forget_on_error(
        &self,
        pods: &[Arc<Pod>],
        result: Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        if result.is_err() {
            for pod in pods {
                self.controller
                    .expectations
                    .deletion_seen(self.key, meta::uid(&**pod));
            }
        }
        result
    }

    async fn delete(&self, pod: &Pod) -> Result<(), SyncError> {
        let was_there = self.hand().delete(pod).await.map_err(SyncError::Delete)?;
        if !was_there {
            self.controller
                .expectations
                .deletion_seen(self.key, meta::uid(pod));
        }
        Ok(())
    }

    /// A job that is over holds on to no pod, and goes itself when its time is over.
    async fn after_the_end(&self) -> Result<Next, SyncError> {
        let held = self.pods.iter().filter(|pod| status::is_tracked(pod));
        try_join_all(held.map(|pod| self.controller.release(pod))).await?;
        let Some(left) = self.view().time_to_live(&self.status) else {
            return Ok(Next::Wait);
        };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        if self.view().is_going() {
            return Ok(Next::Wait);
        }
        let this_one = Preconditions {
            uid: self.job.uid(),
            resource_version: self.job.resource_version(),
        };
        let params = DeleteParams::foreground().preconditions(this_one);
        match self.api::<Job>().delete(&self.key.name, &params).await {
            Ok(_) => Ok(Next::Wait),
            Err(error) if meta::is_not_found(&error) => Ok(Next::Wait),
            Err(error) => Err(SyncError::Expire(error)),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.controller.context.client.clone(), &self.key.namespace)
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{}']", status::INDEX),
            }),
            ..EnvVarSource::default()
        }),
    }
}
