//! One look at a cron job: what its jobs have come to, which are to be forgotten, whether one is due.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{
    Controller, SyncError,
    schedule::{self, Schedule},
};
use crate::replicas;
use vaquita_reconcile::{ObjectKey, drive::Next, meta};

/// When the job was due, as a clock of the cron job's zone shows it.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed runs than this are worth a warning.
const MANY_MISSED: usize = 100;
/// A moment after the minute has begun, so that it has however times were rounded.
const A_MOMENT: Duration = Duration::from_millis(100);
/// The longest time until the next look: the machine may sleep, and its clock may be set.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

pub(super) struct Look<'c> {
    controller: &'c Controller,
    key: &'c ObjectKey,
    cron_job: Arc<CronJob>,
    /// All jobs that the cron job controls.
    jobs: Vec<Arc<Job>>,
    /// As it is to be reported.
    status: CronJobStatus,
    now: Timestamp,
}

/// How a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Failed,
}

fn end(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let mut holding = conditions
        .iter()
        .filter(|condition| condition.status == "True");
    holding.find_map(|condition| match condition.type_.as_str() {
        "Complete" => Some(End::Complete),
        "Failed" => Some(End::Failed),
        _ => None,
    })
}

impl<'c> Look<'c> {
    pub(super) fn new(
        controller: &'c Controller,
        key: &'c ObjectKey,
        cron_job: &Arc<CronJob>,
        jobs: Vec<Arc<Job>>,
    ) -> Self {
        Self {
            controller,
            key,
            cron_job: Arc::clone(cron_job),
            jobs,
            status: cron_job.status.clone().unwrap_or_default(),
            now: controller.context.now(),
        }
    }

    /// Takes stock, forgets, starts what is due, and reports.
    pub(super) async fn advance(mut self) -> Result<Next, SyncError> {
        self.take_stock().await?;
        if meta::is_terminating(&self.cron_job.metadata) {
            self.report().await?;
            return Ok(Next::Wait);
        }
        // What could be started is reported even if something else fails.
        let started = self.start_what_is_due().await;
        let forgotten = self.forget_old_jobs().await;
        self.report().await?;
        forgotten?;
        started
    }

    fn normal(&self, reason: &'static str, message: String) {
        let recorder = &self.controller.recorder;
        recorder.normal(&*self.cron_job, reason, message);
    }

    fn warning(&self, reason: &'static str, message: String) {
        let recorder = &self.controller.recorder;
        recorder.warning(&*self.cron_job, reason, message);
    }

    // ---- what there is ----

    /// Brings the list of active jobs, and the time of the last success, to what the jobs have come to.
    async fn take_stock(&mut self) -> Result<(), SyncError> {
        for job in self.jobs.clone() {
            let listed = self.is_active(meta::uid(&*job));
            match end(&job) {
                None if !listed => {
                    let message = format!(
                        "Saw a job that the controller did not create or forgot: {}",
                        job.name_any()
                    );
                    self.warning("UnexpectedJob", message);
                }
                None => {}
                Some(end) => {
                    if listed {
                        let name = job.name_any();
                        let message = format!("Saw completed job: {name}, condition: {end:?}");
                        self.normal("SawCompletedJob", message);
                        self.strike_out(meta::uid(&*job));
                    }
                    if end == End::Complete {
                        self.note_success(&job);
                    }
                }
            }
        }
        self.strike_out_missing().await
    }

    fn is_active(&self, uid: &str) -> bool {
        let mut active = self.status.active.iter().flatten();
        active.any(|known| known.uid.as_deref() == Some(uid))
    }

    fn strike_out(&mut self, uid: &str) {
        let active = self.status.active.get_or_insert_default();
        active.retain(|known| known.uid.as_deref() != Some(uid));
        if active.is_empty() {
            self.status.active = None;
        }
    }

    fn note_success(&mut self, job: &Job) {
        let at = job.status.as_ref();
        let at = at.and_then(|status| status.completion_time.clone());
        let last = self.status.last_successful_time.as_ref();
        if at.as_ref().map(|time| time.0) > last.map(|time| time.0) {
            self.status.last_successful_time = at;
        }
    }

    /// Takes those out of the list that are no more. The local copy may be late, so the API server is asked.
    async fn strike_out_missing(&mut self) -> Result<(), SyncError> {
        for listed in self.status.active.clone().unwrap_or_default() {
            let uid = listed.uid.clone().unwrap_or_default();
            if self.jobs.iter().any(|job| meta::uid(&**job) == uid) {
                continue;
            }
            let name = listed.name.unwrap_or_default();
            let live = self.api::<Job>().get_opt(&name).await;
            let live = live.map_err(SyncError::Active)?;
            if live.is_none_or(|job| meta::uid(&job) != uid) {
                self.warning("MissingJob", format!("Active job went missing: {name}"));
                self.strike_out(&uid);
            }
        }
        Ok(())
    }

    // ---- what is due ----

    async fn start_what_is_due(&mut self) -> Result<Next, SyncError> {
        let Some((schedule, zone)) = self.schedule() else {
            return Ok(Next::Wait);
        };
        if self.cron_job.spec.suspend == Some(true) {
            return Ok(Next::Wait);
        }
        if let Some(at) = self.due(&schedule, &zone) {
            self.start(at, &zone).await?;
        }
        let next = schedule.after(self.now, &zone);
        Ok(next.map_or(Next::Wait, |at| {
            let left = Duration::try_from(at.duration_since(self.now)).unwrap_or_default();
            Next::After((left + A_MOMENT).min(LONGEST_WAIT))
        }))
    }

    /// The schedule and the zone of its clock; nothing, and an event, if they can't be read.
    fn schedule(&self) -> Option<(Schedule, TimeZone)> {
        let spec = &self.cron_job.spec;
        let zone = match spec
            .time_zone
            .as_deref()
            .map(|name| (name, schedule::zone(name)))
        {
            None => None,
            Some((_, Ok(zone))) => Some(zone),
            Some((name, Err(error))) => {
                let message = format!("invalid timeZone: {name:?}: {error}");
                self.warning("UnknownTimeZone", message);
                return None;
            }
        };
        match Schedule::parse(&spec.schedule) {
            Ok((schedule, of_schedule)) => {
                let zone = of_schedule.or(zone);
                // As for every cron: the clock of the machine that the controller runs on.
                let zone = zone.or_else(|| TimeZone::try_system().ok());
                Some((schedule, zone.unwrap_or(TimeZone::UTC)))
            }
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.warning("UnparseableSchedule", message);
                None
            }
        }
    }

    /// The last run that is due and was not started yet.
    fn due(&self, schedule: &Schedule, zone: &TimeZone) -> Option<Timestamp> {
        let last = self.status.last_schedule_time.as_ref();
        let created = self.cron_job.metadata.creation_timestamp.as_ref();
        let mut earliest = last.or(created)?.0;
        if let Some(seconds) = self.cron_job.spec.starting_deadline_seconds {
            let deadline = SignedDuration::from_secs(seconds);
            earliest = earliest.max(self.now.checked_sub(deadline).ok()?);
        }
        let at = schedule.latest(earliest, self.now, zone)?;
        if schedule.more_than(MANY_MISSED, earliest, self.now, zone) {
            const MESSAGE: &str = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warning("TooManyMissedTimes", MESSAGE.to_owned());
        }
        Some(at)
    }

    async fn start(&mut self, at: Timestamp, zone: &TimeZone) -> Result<(), SyncError> {
        let active = self.status.active.clone().unwrap_or_default();
        match self.cron_job.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                const MESSAGE: &str = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.normal("JobAlreadyActive", MESSAGE.to_owned());
                return Ok(());
            }
            Some("Replace") => {
                for job in active {
                    let (name, uid) = (job.name.unwrap_or_default(), job.uid.unwrap_or_default());
                    self.delete(&name, &uid).await?;
                }
            }
            _ => {}
        }
        let model = self.model(at, zone);
        let name = model.name_any();
        let created = self
            .api::<Job>()
            .create(&PostParams::default(), &model)
            .await;
        let job = match created {
            Ok(job) => {
                self.normal("SuccessfulCreate", format!("Created job {name}"));
                job
            }
            Err(error) if meta::is_namespace_terminating(&error) => return Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.started_before(name).await?
            }
            Err(error) => {
                let message = format!("Error creating job: {}", meta::message(&error));
                self.warning("FailedCreate", message);
                return Err(SyncError::Create(error));
            }
        };
        if end(&job).is_none() && !self.is_active(meta::uid(&job)) {
            let active = self.status.active.get_or_insert_default();
            active.push(ObjectReference {
                field_path: None,
                ..meta::reference(&job)
            });
        }
        self.status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    /// There is a job for this minute: ours, from before it could be reported, or somebody else's.
    async fn started_before(&self, name: String) -> Result<Job, SyncError> {
        let found = self.api::<Job>().get(&name).await;
        let found = found.map_err(SyncError::Create)?;
        let owner = meta::controller_of(&found);
        if owner.is_some_and(|owner| owner.uid == meta::uid(&*self.cron_job)) {
            return Ok(found);
        }
        let message = format!("Error creating job: jobs.batch {name:?} already exists");
        self.warning("FailedCreate", message);
        Err(SyncError::Taken(name))
    }

    /// The job that is due at this time.
    fn model(&self, at: Timestamp, zone: &TimeZone) -> Job {
        let template = &self.cron_job.spec.job_template;
        let model = template.metadata.clone().unwrap_or_default();
        let mut annotations = model.annotations.unwrap_or_default();
        let shown = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S");
        let offset = match zone.to_offset(at).seconds() {
            0 => "Z".to_owned(),
            seconds => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let minutes = seconds.abs() / 60;
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        annotations.insert(SCHEDULED.to_owned(), format!("{shown}{offset}"));
        let minute = at.as_second().div_euclid(60);
        Job {
            metadata: ObjectMeta {
                name: Some(format!("{}-{minute}", self.key.name)),
                namespace: Some(self.key.namespace.clone()),
                labels: model.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![meta::controller_reference(&*self.cron_job)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    }

    // ---- what is over ----

    /// Deletes the jobs that ended first, down to the limits.
    async fn forget_old_jobs(&mut self) -> Result<(), SyncError> {
        let spec = &self.cron_job.spec;
        let limits = [
            (End::Complete, spec.successful_jobs_history_limit),
            (End::Failed, spec.failed_jobs_history_limit),
        ];
        for (wanted, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
                continue;
            };
            let ended = self
                .jobs
                .iter()
                .filter(|job| end(job) == Some(wanted) && !meta::is_terminating(&job.metadata));
            let mut ended: Vec<_> = ended.cloned().collect();
            ended.sort_by_cached_key(|job| (started_at(job), job.name_any()));
            let surplus = ended.len().saturating_sub(limit);
            for job in ended.into_iter().take(surplus) {
                self.delete(&job.name_any(), meta::uid(&*job)).await?;
            }
        }
        Ok(())
    }

    async fn delete(&mut self, name: &str, uid: &str) -> Result<(), SyncError> {
        let this_one = Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        };
        let params = DeleteParams::background().preconditions(this_one);
        match self.api::<Job>().delete(name, &params).await {
            Ok(_) => self.normal("SuccessfulDelete", format!("Deleted job {name}")),
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => {}
            Err(error) => {
                self.warning(
                    "FailedDelete",
                    format!("Deleted job: {}", meta::message(&error)),
                );
                return Err(SyncError::Delete(error));
            }
        }
        self.strike_out(uid);
        Ok(())
    }

    async fn report(&self) -> Result<(), SyncError> {
        if self.cron_job.status.clone().unwrap_or_default() == self.status {
            return Ok(());
        }
        let mut updated = CronJob::clone(&self.cron_job);
        updated.status = Some(self.status.clone());
        let written = replicas::write_status(&self.controller.context.client, &updated).await;
        written.map_err(SyncError::Status)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.controller.context.client.clone(), &self.key.namespace)
    }
}

fn started_at(job: &Job) -> Option<Timestamp> {
    let started = job.status.as_ref();
    let started = started.and_then(|status| status.start_time.as_ref());
    let time = started.or(job.metadata.creation_timestamp.as_ref());
    time.map(|time| time.0)
}
