//! What an autoscaler's status says after a look at it.

use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{
        HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
        MetricStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A status in the making: that of before, with what this look found out.
pub(super) struct Report {
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Report {
    pub(super) fn new(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = autoscaler.metadata.generation;
        Self { status, now }
    }

    /// Says how many replicas there are, and are to be.
    pub(super) fn replicas(&mut self, current: i32, desired: i32) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
    }

    /// Says that there are to be another number from now on.
    pub(super) fn rescaled(&mut self, desired: i32) {
        self.status.desired_replicas = desired;
        self.status.last_scale_time = Some(Time(self.now));
    }

    /// Says what the metrics are.
    pub(super) fn metrics(&mut self, metrics: Vec<MetricStatus>) {
        self.status.current_metrics = Some(metrics).filter(|metrics| !metrics.is_empty());
    }

    /// Says whether the scale can be read and written.
    pub(super) fn able(&mut self, is: bool, reason: &str, message: String) {
        self.condition("AbleToScale", is, reason, message);
    }

    /// Says whether the metrics say anything.
    pub(super) fn active(&mut self, is: bool, reason: &str, message: String) {
        self.condition("ScalingActive", is, reason, message);
    }

    /// Says whether bounds keep the metrics from getting what they ask for.
    pub(super) fn limited(&mut self, is: bool, reason: &str, message: String) {
        self.condition("ScalingLimited", is, reason, message);
    }

    fn condition(&mut self, type_: &str, is: bool, reason: &str, message: String) {
        let status = if is { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let known = conditions.iter_mut().find(|known| known.type_ == type_);
        let since = match &known {
            Some(known) if known.status == status => known.last_transition_time.clone(),
            _ => Some(Time(self.now)),
        };
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since,
        };
        match known {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }

    /// The status, if it is another one than that which is known.
    pub(super) fn news(
        self,
        known: &HorizontalPodAutoscaler,
    ) -> Option<HorizontalPodAutoscalerStatus> {
        (known.status.as_ref() != Some(&self.status)).then_some(self.status)
    }
}
