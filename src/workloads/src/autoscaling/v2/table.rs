//! An autoscaler's row in `kubectl get`: above all what is measured, beside what should be.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;
use vaquita_api::registry::Kind;
use vaquita_api::table::Column;
use vaquita_kinds::print::NONE;

pub(in super::super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::string("Reference", "What is scaled."),
    Column::string("Targets", "What is measured, and what it should be."),
    Column::string("MinPods", "The fewest pods."),
    Column::string("MaxPods", "The most pods."),
    Column::string("Replicas", "How many pods there are."),
    Column::AGE,
];

/// How many metrics are shown.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn row(scaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let spec = &scaler.spec;
    let status = scaler.status.clone().unwrap_or_default();
    let target = &spec.scale_target_ref;
    let min = spec
        .min_replicas
        .map_or_else(|| "<unset>".to_owned(), |min| min.to_string());
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let current = status.current_metrics.as_deref().unwrap_or_default();
    vec![
        scaler.name_cell(),
        format!("{}/{}", target.kind, target.name).into(),
        targets(metrics, current).into(),
        min.into(),
        spec.max_replicas.into(),
        status.current_replicas.unwrap_or_default().into(),
        scaler.age_cell(now),
    ]
}

fn targets(metrics: &[MetricSpec], current: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let shown: Vec<String> = metrics
        .iter()
        .take(SHOWN)
        .enumerate()
        .map(|(at, metric)| target(metric, current.get(at)))
        .collect();
    let list = shown.join(", ");
    match metrics.len().saturating_sub(SHOWN) {
        0 => list,
        more => format!("{list} + {more} more..."),
    }
}

/// `present/wanted` of one metric.
fn target(metric: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let nothing = MetricTarget::default();
    match metric.type_.as_str() {
        "External" => {
            let target = metric.external.as_ref().map(|source| &source.target);
            let current = status.and_then(|status| status.external.as_ref());
            value(
                target.unwrap_or(&nothing),
                current.map(|found| &found.current),
            )
        }
        "Object" => {
            let target = metric.object.as_ref().map(|source| &source.target);
            let current = status.and_then(|status| status.object.as_ref());
            value(
                target.unwrap_or(&nothing),
                current.map(|found| &found.current),
            )
        }
        "Pods" => {
            let target = metric.pods.as_ref().map(|source| &source.target);
            let current = status.and_then(|status| status.pods.as_ref());
            let current = current.and_then(|found| found.current.average_value.as_ref());
            let wanted = target.and_then(|target| target.average_value.as_ref());
            format!("{}/{}", known(current), known(wanted))
        }
        "Resource" => {
            let (name, target) = metric
                .resource
                .as_ref()
                .map_or(("", &nothing), |source| (&source.name, &source.target));
            let current = status.and_then(|status| status.resource.as_ref());
            utilization(name, target, current.map(|found| &found.current))
        }
        "ContainerResource" => {
            let (name, target) = metric
                .container_resource
                .as_ref()
                .map_or(("", &nothing), |source| (&source.name, &source.target));
            let current = status.and_then(|status| status.container_resource.as_ref());
            utilization(name, target, current.map(|found| &found.current))
        }
        _ => "<unknown type>".to_owned(),
    }
}

fn known(value: Option<&Quantity>) -> &str {
    value.map_or(UNKNOWN, |value| &value.0)
}

fn value(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if let Some(wanted) = &target.average_value {
        let current = current.and_then(|current| current.average_value.as_ref());
        return format!("{}/{} (avg)", known(current), wanted.0);
    }
    let current = current.and_then(|current| current.value.as_ref());
    format!("{}/{}", known(current), known(target.value.as_ref()))
}

fn utilization(name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if let Some(wanted) = &target.average_value {
        let current = current.and_then(|current| current.average_value.as_ref());
        return format!("{name}: {}/{}", known(current), wanted.0);
    }
    let percent = |percent: i32| format!("{percent}%");
    let current = current
        .and_then(|current| current.average_utilization)
        .map_or_else(|| UNKNOWN.to_owned(), percent);
    let wanted = target
        .average_utilization
        .map_or_else(|| "<auto>".to_owned(), percent);
    format!("{name}: {current}/{wanted}")
}
