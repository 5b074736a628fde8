//! One look at a deployment: what its replica sets should be now, and the writes that make them so.
//!
//! A look changes sizes in one direction at most and leaves the rest to the next, which comes when the change is seen: every
//! decision is then made from what is, not from what was meant to be. Each write names the version it was decided on, so
//! that a look at an old copy changes nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{
    Controller, SyncError,
    plan::{Counted, Limits, Share, is_recreate, sum},
    revisions,
    status::{Conditions, Report, deadline, progress_is, progressing, reason, set_progressing},
};
use crate::replicas::{self, Owner as _, template};
use vaquita_reconcile::{drive::Next, meta, pods};

pub(super) struct Rollout<'c> {
    controller: &'c Controller,
    deployment: Deployment,
    spec: DeploymentSpec,
    limits: Limits,
    /// The set of the template of now.
    new: Option<Arc<ReplicaSet>>,
    /// The other sets, oldest first.
    old: Vec<Arc<ReplicaSet>>,
    /// The status as it was last reported.
    reported: DeploymentStatus,
    /// The conditions as they are to be reported.
    conditions: Conditions,
    now: Timestamp,
}

impl<'c> Rollout<'c> {
    /// A look at `deployment` with its `sets`.
    pub(super) fn new(
        controller: &'c Controller,
        deployment: Deployment,
        mut sets: Vec<Arc<ReplicaSet>>,
        now: Timestamp,
    ) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        sets.sort_by_cached_key(|set| (created(set), set.name_any()));
        let is_new = |set: &Arc<ReplicaSet>| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| template::same(template, &spec.template))
        };
        // The oldest that fits, should there be several: whoever looks takes the same.
        let new = sets.iter().position(is_new).map(|at| sets.remove(at));
        let reported = deployment.status.clone().unwrap_or_default();
        Self {
            limits: Limits::of(&deployment),
            conditions: reported.conditions.clone().unwrap_or_default(),
            controller,
            deployment,
            spec,
            new,
            old: sets,
            reported,
            now,
        }
    }

    /// Takes the next step and reports.
    pub(super) async fn advance(mut self) -> Result<Next, SyncError> {
        if meta::is_terminating(&self.deployment.metadata) {
            return self.report_counts().await;
        }
        self.note_pause();
        let paused = self.spec.paused == Some(true);
        if paused || self.is_resized() {
            self.sync_new().await?;
            self.scale().await?;
            if paused {
                self.clean_up().await?;
            }
            return self.report_counts().await;
        }
        if is_recreate(&self.deployment) {
            self.recreate().await?;
        } else {
            self.roll().await?;
        }
        self.report_progress().await
    }

    /// A pause stops the clock of the progress deadline, and its end starts it anew.
    fn note_pause(&mut self) {
        if deadline(&self.deployment).is_none() || progress_is(&self.conditions, reason::TIMED_OUT)
        {
            return;
        }
        let paused = self.spec.paused == Some(true);
        let (reason, message) = match progress_is(&self.conditions, reason::PAUSED) {
            false if paused => (reason::PAUSED, "Deployment is paused"),
            true if !paused => (reason::RESUMED, "Deployment is resumed"),
            _ => return,
        };
        set_progressing(
            &mut self.conditions,
            "Unknown",
            reason,
            message.to_owned(),
            self.now,
        );
    }

    /// Whether the deployment's size has changed since its sets were sized.
    fn is_resized(&self) -> bool {
        let active = self.sets().filter(|set| set.wanted() > 0);
        active
            .filter_map(|set| revisions::desired(set))
            .any(|desired| desired != self.limits.wanted)
    }

    fn sets(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i64 {
        sum(self.sets().map(|set| set.wanted()))
    }

    // ---- the new set ----

    fn next_revision(&self) -> i64 {
        let latest = self.old.iter().map(|set| revisions::revision(&**set)).max();
        latest.unwrap_or(0).saturating_add(1)
    }

    /// Brings the new set, if there is one, to what the deployment says apart from its size.
    async fn sync_new(&mut self) -> Result<(), SyncError> {
        let Some(set) = self.new.clone() else {
            return Ok(());
        };
        let annotations =
            revisions::annotate(set.annotations(), &self.deployment, self.next_revision());
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        if annotations != *set.annotations() || set.min_ready_seconds() != min_ready {
            let updated = self
                .update(&set, &annotations, &json!({ "minReadySeconds": min_ready }))
                .await?;
            self.new = Some(updated);
        }
        if deadline(&self.deployment).is_some() && progressing(&self.conditions).is_none() {
            let message = format!("Found new replica set {:?}", set.name_any());
            set_progressing(
                &mut self.conditions,
                "True",
                reason::FOUND,
                message,
                self.now,
            );
        }
        self.take_revision().await
    }

    /// The deployment is at the revision of its new set.
    async fn take_revision(&mut self) -> Result<(), SyncError> {
        let Some(set) = &self.new else { return Ok(()) };
        let revision = set.annotations().get(revisions::REVISION);
        if self.deployment.annotations().get(revisions::REVISION) == revision {
            return Ok(());
        }
        let annotations = json!({ "annotations": { revisions::REVISION: revision } });
        let patch = meta::guarded_patch(&self.deployment.metadata, annotations);
        let (api, name) = (self.api::<Deployment>(), self.deployment.name_any());
        self.deployment = api
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(SyncError::Revision)?;
        Ok(())
    }

    /// Makes sure that there is a new set.
    async fn ensure_new(&mut self) -> Result<(), SyncError> {
        if self.new.is_some() {
            return self.sync_new().await;
        }
        let set = self.model();
        let name = set.name_any();
        let api = self.api::<ReplicaSet>();
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                if created.wanted() > 0 {
                    let message = format!(
                        "Scaled up replica set {name} from 0 to {}",
                        created.wanted()
                    );
                    self.record(message);
                }
                self.new = Some(Arc::new(created));
                if deadline(&self.deployment).is_some() {
                    let message = format!("Created new replica set {name:?}");
                    set_progressing(
                        &mut self.conditions,
                        "True",
                        reason::CREATED,
                        message,
                        self.now,
                    );
                }
                self.take_revision().await
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.take_over(name).await
            }
            Err(error) => self.creation_failed(&name, error).await,
        }
    }

    /// The new set as it is to be created.
    fn model(&self) -> ReplicaSet {
        let hash = template::hash(&self.spec.template, self.reported.collision_count);
        let label = |labels: &mut Option<BTreeMap<String, String>>| {
            labels
                .get_or_insert_default()
                .insert(template::HASH_LABEL.to_owned(), hash.clone());
        };
        let mut pods = self.spec.template.clone();
        label(&mut pods.metadata.get_or_insert_default().labels);
        let mut selector: LabelSelector = self.spec.selector.clone();
        label(&mut selector.match_labels);
        let size = if is_recreate(&self.deployment) {
            self.limits.wanted
        } else {
            self.limits.grow(0, self.total())
        };
        let annotations =
            revisions::annotate(&BTreeMap::new(), &self.deployment, self.next_revision());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(template::set_name(&self.deployment.name_any(), &hash)),
                namespace: self.deployment.namespace(),
                labels: pods
                    .metadata
                    .as_ref()
                    .and_then(|metadata| metadata.labels.clone()),
                annotations: Some(revisions::sized(&annotations, &self.limits)),
                owner_references: Some(vec![meta::controller_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(pods),
            }),
            status: None,
        }
    }

    /// There is a set of the new one's name: it is the new one, which the local copy did not show yet, or the hashes of two
    /// templates collide.
    async fn take_over(&mut self, name: String) -> Result<(), SyncError> {
        let found = self.api::<ReplicaSet>().get_opt(&name).await;
        let found = found.map_err(SyncError::Create)?;
        let is_ours = |set: &ReplicaSet| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            meta::controller_of(set).is_some_and(|owner| owner.uid == meta::uid(&self.deployment))
                && template.is_some_and(|template| template::same(template, &self.spec.template))
        };
        if let Some(set) = found.filter(is_ours) {
            self.new = Some(Arc::new(set));
            return self.take_revision().await;
        }
        let mut status = self.reported.clone();
        let collisions = status.collision_count.unwrap_or(0);
        status.collision_count = Some(collisions.saturating_add(1));
        self.report(status).await?;
        Err(SyncError::Collision(name))
    }

    async fn creation_failed(&mut self, name: &str, error: kube::Error) -> Result<(), SyncError> {
        // Nothing will come of it, however often it is tried, and the whole namespace is going anyway.
        if meta::is_namespace_terminating(&error) {
            return Ok(());
        }
        let message = format!(
            "Failed to create new replica set {name:?}: {}",
            meta::message(&error)
        );
        if deadline(&self.deployment).is_some() {
            set_progressing(
                &mut self.conditions,
                "False",
                reason::CREATE_FAILED,
                message.clone(),
                self.now,
            );
            let mut status = self.reported.clone();
            status.conditions = Some(self.conditions.clone());
            self.report(status).await?;
        }
        let recorder = &self.controller.recorder;
        recorder.warning(&self.deployment, reason::CREATE_FAILED, message);
        Err(SyncError::Create(error))
    }

    // ---- sizes ----

    /// Gives the sets their share of a new size, without any progress of a rollout.
    async fn scale(&mut self) -> Result<(), SyncError> {
        let mut active: Vec<_> = self
            .sets()
            .filter(|set| set.wanted() > 0)
            .cloned()
            .collect();
        let latest = || self.new.as_ref().or(self.old.last()).cloned();
        let only = match active.as_slice() {
            [] => latest(),
            [only] => Some(Arc::clone(only)),
            _ => None,
        };
        if let Some(only) = only {
            return self.resize(&only, self.limits.wanted).await.map(drop);
        }
        if self.is_saturated() {
            let new = self.new.as_ref().map(|set| meta::uid(&**set).to_owned());
            active.retain(|set| Some(meta::uid(&**set)) != new.as_deref());
            return self
                .shrink_to(&active, &vec![0; active.len()])
                .await
                .map(drop);
        }
        if is_recreate(&self.deployment) {
            return Ok(());
        }
        // The largest first. Among equals what is added goes to the newer, what is taken comes from the older.
        let growing = i64::from(self.limits.most()) > self.total() && self.limits.wanted > 0;
        active.sort_by_cached_key(|set| (created(set), set.name_any()));
        if growing {
            active.reverse();
        }
        active.sort_by_key(|set| std::cmp::Reverse(set.wanted()));
        let reported = self.reported.replicas.unwrap_or(0);
        let shares: Vec<_> = active
            .iter()
            .map(|set| Share {
                size: set.wanted(),
                whole: revisions::most(set)
                    .filter(|most| *most > 0)
                    .unwrap_or(reported),
            })
            .collect();
        for (set, size) in active.iter().zip(self.limits.proportional(&shares)) {
            self.resize(set, size).await?;
        }
        Ok(())
    }

    /// Whether the new set has all the pods that are wanted, and they are available.
    fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|set| {
            let all = self.limits.wanted;
            set.wanted() == all
                && revisions::desired(set) == Some(all)
                && set.status().available_replicas.unwrap_or(0) == all
        })
    }

    /// One step of a rolling update.
    async fn roll(&mut self) -> Result<(), SyncError> {
        self.ensure_new().await?;
        let Some(new) = self.new.clone() else {
            return Ok(());
        };
        let size = self.limits.grow(new.wanted(), self.total());
        if size != new.wanted() {
            return self.resize(&new, size).await.map(drop);
        }
        let active: Vec<_> = self
            .old
            .iter()
            .filter(|set| set.wanted() > 0)
            .cloned()
            .collect();
        let counted: Vec<_> = active.iter().map(count).collect();
        let sizes = self.limits.shrink(count(&new), &counted);
        if !self.shrink_to(&active, &sizes).await? && self.is_complete() {
            self.clean_up().await?;
        }
        Ok(())
    }

    /// One step of making all pods anew.
    async fn recreate(&mut self) -> Result<(), SyncError> {
        self.sync_new().await?;
        let active: Vec<_> = self
            .old
            .iter()
            .filter(|set| set.wanted() > 0)
            .cloned()
            .collect();
        if self.shrink_to(&active, &vec![0; active.len()]).await? || self.old_pods_are_left() {
            return Ok(());
        }
        self.ensure_new().await?;
        if let Some(new) = self.new.clone()
            && new.wanted() != self.limits.wanted
        {
            self.resize(&new, self.limits.wanted).await?;
        }
        if self.is_complete() {
            self.clean_up().await?;
        }
        Ok(())
    }

    fn old_pods_are_left(&self) -> bool {
        self.old.iter().any(|set| {
            let pods = self
                .controller
                .pods
                .store()
                .controlled_by(meta::uid(&**set));
            set.status().replicas > 0 || pods.iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    /// Whether the rollout was over at the last report.
    fn is_complete(&self) -> bool {
        self.look().is_complete(&self.reported)
    }

    /// Gives each set its size; whether any had another one.
    async fn shrink_to(&self, sets: &[Arc<ReplicaSet>], sizes: &[i32]) -> Result<bool, SyncError> {
        let mut any = false;
        for (set, size) in sets.iter().zip(sizes) {
            if set.wanted() != *size {
                any |= self.resize(set, *size).await?;
            }
        }
        Ok(any)
    }

    /// Sizes a set, and notes at which size of the deployment; whether the size was another one.
    async fn resize(&self, set: &Arc<ReplicaSet>, size: i32) -> Result<bool, SyncError> {
        let before = set.wanted();
        let annotations = revisions::sized(set.annotations(), &self.limits);
        if before == size && annotations == *set.annotations() {
            return Ok(false);
        }
        self.update(set, &annotations, &json!({ "replicas": size }))
            .await?;
        if before == size {
            return Ok(false);
        }
        let direction = if before < size { "up" } else { "down" };
        let name = set.name_any();
        self.record(format!(
            "Scaled {direction} replica set {name} from {before} to {size}"
        ));
        Ok(true)
    }

    // ---- what is shared ----

    async fn update(
        &self,
        set: &ReplicaSet,
        annotations: &BTreeMap<String, String>,
        spec: &serde_json::Value,
    ) -> Result<Arc<ReplicaSet>, SyncError> {
        let mut patch = meta::guarded_patch(&set.metadata, json!({ "annotations": annotations }));
        patch["spec"] = spec.clone();
        let api = self.api::<ReplicaSet>();
        let updated = api
            .patch(
                &set.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .map_err(SyncError::Update)?;
        Ok(Arc::new(updated))
    }

    /// Deletes the oldest of the sets without pods, down to the history limit.
    async fn clean_up(&self) -> Result<(), SyncError> {
        let limit = self
            .spec
            .revision_history_limit
            .filter(|limit| *limit != i32::MAX);
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return Ok(());
        };
        let mut sets: Vec<_> = self
            .old
            .iter()
            .filter(|set| !meta::is_terminating(&set.metadata))
            .collect();
        sets.sort_by_key(|set| revisions::revision(&***set));
        let surplus = sets.len().saturating_sub(limit);
        for set in sets.into_iter().take(surplus) {
            let status = set.status();
            let in_use = status.replicas != 0
                || set.wanted() != 0
                || set.metadata.generation > status.observed_generation;
            if !in_use {
                self.delete(set).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet) -> Result<(), SyncError> {
        let this_one = Preconditions {
            uid: set.uid(),
            resource_version: None,
        };
        let params = DeleteParams::background().preconditions(this_one);
        match self
            .api::<ReplicaSet>()
            .delete(&set.name_any(), &params)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(SyncError::Delete(error)),
        }
    }

    fn look(&self) -> Report<'_> {
        Report {
            deployment: &self.deployment,
            limits: self.limits,
            new: self.new.as_deref(),
            old: &self.old,
            now: self.now,
        }
    }

    async fn report_counts(mut self) -> Result<Next, SyncError> {
        let status = self.look().counts(self.conditions.clone());
        self.report(status).await?;
        Ok(Next::Wait)
    }

    async fn report_progress(mut self) -> Result<Next, SyncError> {
        let status = self
            .look()
            .progress(self.conditions.clone(), &self.reported);
        let conditions = status.conditions.clone().unwrap_or_default();
        let waits = !self.look().is_complete(&status)
            && !progress_is(&conditions, reason::TIMED_OUT)
            && !progress_is(&conditions, reason::DONE);
        // A second later than the deadline, so that it is over whatever rounding does to times.
        let deadline = self.look().time_left(&conditions).filter(|_| waits);
        let next = deadline.map(|left| Next::After(left + Duration::from_secs(1)));
        self.report(status).await?;
        Ok(next.unwrap_or(Next::Wait))
    }

    async fn report(&mut self, status: DeploymentStatus) -> Result<(), SyncError> {
        if status == self.reported {
            return Ok(());
        }
        let mut updated = self.deployment.clone();
        updated.status = Some(status);
        let written = replicas::write_status(&self.controller.context.client, &updated).await;
        written.map_err(SyncError::Status)
    }

    fn record(&self, message: String) {
        let recorder = &self.controller.recorder;
        recorder.normal(&self.deployment, "ScalingReplicaSet", message);
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let namespace = self.deployment.namespace().unwrap_or_default();
        Api::namespaced(self.controller.context.client.clone(), &namespace)
    }
}

fn created(set: &ReplicaSet) -> Option<Timestamp> {
    let time = set.metadata.creation_timestamp.as_ref();
    time.map(|time| time.0)
}

fn count(set: &Arc<ReplicaSet>) -> Counted {
    Counted {
        size: set.wanted(),
        available: set.status().available_replicas.unwrap_or(0),
    }
}
