//! Horizontal autoscaling: as many replicas as metrics ask for.
//!
//! Each autoscaler is looked at every 15 s, and when its specification changes. A look reads the target's scale,
//! computes what each metric asks for (`evaluate` by way of `metrics` and `replicas`), takes the largest, applies bounds
//! and pace (`limits`), writes the scale if it is another one, and says in the status what was done and why.

mod evaluate;
mod limits;
mod metrics;
mod replicas;
mod selectors;
mod status;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    autoscaling::{v1::Scale, v2::HorizontalPodAutoscaler},
    core::v1::Pod,
};
use kube::{Api, ResourceExt as _, api::PostParams};
use tokio::time::Instant;

use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
    scale::{ScaleError, Scales, Target},
};

use evaluate::Evaluation;
use limits::{History, Limits};
use metrics::Metrics;
use selectors::Selectors;
use status::Report;

/// How often each autoscaler is looked at.
const PERIOD: Duration = Duration::from_secs(15);
/// The least time between two looks at one: metrics are no newer.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a look at an autoscaler failed. What its status can say is said there instead.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The status could not be written.
    #[error("writing the status")]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: PAUSE,
        ..Pacing::default()
    });
    let scales = Scales::new(context.client.clone());
    let controller = Arc::new(Controller {
        autoscalers: context.informers.of(),
        pods: context.informers.of(),
        metrics: Metrics::new(context.client.clone(), scales.clone()),
        scales,
        histories: Mutex::default(),
        selectors: Selectors::default(),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        context: context.clone(),
    });
    if !(controller.autoscalers.synced().await && controller.pods.synced().await) {
        return;
    }
    let (listener, autoscalers) = (Arc::clone(&controller), queue.clone());
    controller.autoscalers.subscribe(move |change| {
        let key = ObjectKey::of(change.object());
        match change {
            Change::Added(_) => autoscalers.add(key),
            Change::Modified { old, new } if old.spec != new.spec => autoscalers.add(key),
            Change::Modified { .. } => {}
            Change::Deleted(_) => {
                listener.selectors.forget(&key);
                listener.with_histories(|histories| {
                    histories.remove(&key);
                });
            }
        }
    });
    context.drive(controller, queue).await;
}

struct Controller {
    context: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    scales: Scales,
    metrics: Metrics,
    histories: Mutex<HashMap<ObjectKey, History>>,
    selectors: Selectors,
    recorder: Recorder,
}

impl Reconciler for Controller {
    /// The autoscaler's name.
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "horizontal-pod-autoscaler";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(autoscaler) = self.autoscalers.store().get(key) else {
            return Ok(Next::Wait);
        };
        if meta::is_terminating(&autoscaler.metadata) {
            return Ok(Next::Wait);
        }
        let mut report = Report::new(&autoscaler, self.context.now());
        self.look(key, &autoscaler, &mut report).await;
        self.write(&autoscaler, report).await?;
        Ok(Next::After(PERIOD))
    }
}

/// What a look came to.
struct Wanted {
    replicas: i32,
    reason: String,
}

impl Controller {
    async fn look(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        report: &mut Report,
    ) {
        let reference = &autoscaler.spec.scale_target_ref;
        let target = Target {
            api_version: reference
                .api_version
                .clone()
                .unwrap_or_else(|| "v1".to_owned()),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
        };
        let scale = match self.scales.get(&key.namespace, &target).await {
            Ok(scale) => scale,
            Err(error) => {
                let message = scale_message(&error);
                self.recorder
                    .warning(autoscaler, "FailedGetScale", message.clone());
                let why = format!(
                    "the HPA controller was unable to get the target's current scale: {message}"
                );
                return report.able(false, "FailedGetScale", why);
            }
        };
        let current = scale
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(0);
        report.replicas(current, current);
        let why = "the HPA controller was able to get the target's current scale";
        report.able(true, "SucceededGetScale", why.to_owned());
        self.with_history(key, |history| {
            if history.is_new() {
                history.recommend(current, Instant::now());
            }
        });
        let wanted = self.decide(key, autoscaler, &scale, current, report).await;
        if let Some(wanted) = wanted.filter(|wanted| wanted.replicas != current) {
            self.rescale(key, autoscaler, &target, (scale, current), &wanted, report)
                .await;
        }
    }

    /// How many replicas there are to be, if anything can be said about that.
    async fn decide(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        scale: &Scale,
        current: i32,
        report: &mut Report,
    ) -> Option<Wanted> {
        let spec = &autoscaler.spec;
        let min = spec.min_replicas.unwrap_or(1);
        let forced = |replicas, reason: &str| {
            Some(Wanted {
                replicas,
                reason: reason.to_owned(),
            })
        };
        if current == 0 && min != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            report.active(false, "ScalingDisabled", why.to_owned());
            return None;
        }
        if current > spec.max_replicas {
            return forced(
                spec.max_replicas,
                "Current number of replicas above Spec.MaxReplicas",
            );
        }
        if current < min {
            return forced(min, "Current number of replicas below Spec.MinReplicas");
        }
        let evaluation = Evaluation {
            key,
            autoscaler,
            selectors: &self.selectors,
            pods: &self.pods,
            metrics: &self.metrics,
            recorder: &self.recorder,
            now: self.context.now(),
        };
        let (asked, metric) = evaluation.all(scale, current, report).await?;
        let behavior = spec.behavior.as_ref();
        let limits = Limits {
            min,
            max: spec.max_replicas,
            behavior: behavior.and_then(|behavior| {
                Some((behavior.scale_up.as_ref()?, behavior.scale_down.as_ref()?))
            }),
        };
        let decision = self.with_history(key, |history| {
            limits::decide(limits, history, current, asked, Instant::now())
        });
        report.able(true, decision.able.0, decision.able.1.to_owned());
        let (limited, (reason, message)) = decision.limited;
        report.limited(limited, reason, message.to_owned());
        let reason = if asked > current {
            format!("{metric} above target")
        } else {
            "All metrics below target".to_owned()
        };
        Some(Wanted {
            replicas: decision.replicas,
            reason,
        })
    }

    async fn rescale(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        (mut scale, current): (Scale, i32),
        wanted: &Wanted,
        report: &mut Report,
    ) {
        let Wanted { replicas, reason } = wanted;
        scale.spec.get_or_insert_default().replicas = Some(*replicas);
        match self.scales.set(&key.namespace, target, &scale).await {
            Ok(_) => {
                let why =
                    format!("the HPA controller was able to update the target scale to {replicas}");
                report.able(true, "SucceededRescale", why);
                report.rescaled(*replicas);
                let message = format!("New size: {replicas}; reason: {reason}");
                self.recorder
                    .normal(autoscaler, "SuccessfulRescale", message);
                self.with_history(key, |history| {
                    history.scaled(current, *replicas, Instant::now());
                });
            }
            Err(error) => {
                let error = scale_message(&error);
                let message = format!("New size: {replicas}; reason: {reason}; error: {error}");
                self.recorder.warning(autoscaler, "FailedRescale", message);
                let why =
                    format!("the HPA controller was unable to update the target scale: {error}");
                report.able(false, "FailedUpdateScale", why);
            }
        }
    }

    async fn write(
        &self,
        known: &HorizontalPodAutoscaler,
        report: Report,
    ) -> Result<(), SyncError> {
        let Some(status) = report.news(known) else {
            return Ok(());
        };
        let autoscaler = HorizontalPodAutoscaler {
            status: Some(status),
            ..known.clone()
        };
        let namespace = known.namespace().unwrap_or_default();
        let api =
            Api::<HorizontalPodAutoscaler>::namespaced(self.context.client.clone(), &namespace);
        let (name, params) = (known.name_any(), PostParams::default());
        match api.replace_status(&name, &params, &autoscaler).await {
            Err(error) if !meta::is_not_found(&error) => Err(SyncError::Status(error)),
            _ => Ok(()),
        }
    }

    fn with_history<T>(&self, key: &ObjectKey, use_it: impl FnOnce(&mut History) -> T) -> T {
        self.with_histories(|histories| use_it(histories.entry(key.clone()).or_default()))
    }

    fn with_histories<T>(&self, use_them: impl FnOnce(&mut HashMap<ObjectKey, History>) -> T) -> T {
        let mut histories = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        use_them(&mut histories)
    }
}

/// What an error says to a user.
fn scale_message(error: &ScaleError) -> String {
    match error {
        ScaleError::Request(error) => meta::message(error),
        other => vaquita_reconcile::drive::chain(other),
    }
}

#[cfg(test)]
mod tests;
