//! Between the two versions of an autoscaler. Neither way loses anything that the other version can say.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::{v1, v2};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::v2::{DEFAULT_CPU, cpu_utilization, scale_down, scale_up};
use super::forms::{
    Amount, BEHAVIOR, Behavior, CONDITIONS, CURRENT_METRICS, Condition, ContainerCurrent,
    ContainerMetric, Current, ExternalCurrent, ExternalMetric, METRICS, Metric, ObjectCurrent,
    ObjectMetric, PodsCurrent, PodsMetric, ResourceCurrent, ResourceMetric, Target,
};

/// The use of CPU that a metric asks for, in percent: what v1 has a field for.
fn cpu_target(metric: &v2::MetricSpec) -> Option<i32> {
    let resource = metric.resource.as_ref()?;
    if metric.type_ != "Resource" || resource.name != "cpu" {
        return None;
    }
    resource.target.average_utilization
}

/// What v1 shows of a stored object.
pub(super) fn from_v2(object: v2::HorizontalPodAutoscaler) -> v1::HorizontalPodAutoscaler {
    let mut metadata = object.metadata;
    let spec = object.spec;
    let status = object.status.unwrap_or_default();
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    for name in [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS] {
        annotations.remove(name);
    }
    let metrics = spec.metrics.unwrap_or_default();
    let cpu = metrics.iter().find_map(cpu_target);
    let others = metrics
        .into_iter()
        .filter(|metric| cpu_target(metric).is_none());
    let others: Vec<Metric> = others.map(Metric::from).collect();
    keep_list(&mut annotations, METRICS, &others);
    if let Some(behavior) = spec.behavior {
        keep(&mut annotations, BEHAVIOR, &Behavior::from(behavior));
    }
    let current = status.current_metrics.unwrap_or_default();
    let used = current.iter().rev().find_map(|metric| {
        let resource = metric.resource.as_ref()?;
        let cpu = metric.type_ == "Resource" && resource.name == "cpu";
        resource.current.average_utilization.filter(|_| cpu)
    });
    let current: Vec<Current> = current.into_iter().map(Current::from).collect();
    keep_list(&mut annotations, CURRENT_METRICS, &current);
    let conditions = status.conditions.unwrap_or_default();
    let conditions: Vec<Condition> = conditions.into_iter().map(Condition::from).collect();
    keep_list(&mut annotations, CONDITIONS, &conditions);
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let target = spec.scale_target_ref;
    v1::HorizontalPodAutoscaler {
        metadata,
        spec: v1::HorizontalPodAutoscalerSpec {
            max_replicas: spec.max_replicas,
            min_replicas: spec.min_replicas,
            scale_target_ref: v1::CrossVersionObjectReference {
                api_version: target.api_version,
                kind: target.kind,
                name: target.name,
            },
            target_cpu_utilization_percentage: cpu,
        },
        status: Some(v1::HorizontalPodAutoscalerStatus {
            current_cpu_utilization_percentage: used,
            current_replicas: status.current_replicas.unwrap_or_default(),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
    }
}

/// What is stored of an object of v1. Annotations that make no sense are dropped, as upstream drops them.
pub(super) fn to_v2(object: v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    let mut metadata = object.metadata;
    let spec = object.spec;
    let status = object.status.unwrap_or_default();
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    let others: Option<Vec<Metric>> = taken(&mut annotations, METRICS);
    let behavior: Option<Behavior> = taken(&mut annotations, BEHAVIOR);
    let current: Option<Vec<Current>> = taken(&mut annotations, CURRENT_METRICS);
    let conditions: Option<Vec<Condition>> = taken(&mut annotations, CONDITIONS);
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let others = others.unwrap_or_default().into_iter();
    let mut metrics: Vec<v2::MetricSpec> = others.map(Into::into).collect();
    metrics.extend(spec.target_cpu_utilization_percentage.map(cpu_utilization));
    if metrics.is_empty() {
        metrics.push(cpu_utilization(DEFAULT_CPU));
    }
    let current = match current {
        Some(current) => Some(current.into_iter().map(Into::into).collect()),
        None => status.current_cpu_utilization_percentage.map(used_cpu),
    };
    let behavior = behavior.filter(|behavior| *behavior != Behavior::default());
    let target = spec.scale_target_ref;
    v2::HorizontalPodAutoscaler {
        metadata,
        spec: v2::HorizontalPodAutoscalerSpec {
            behavior: behavior.map(Into::into),
            max_replicas: spec.max_replicas,
            metrics: Some(metrics),
            min_replicas: spec.min_replicas,
            scale_target_ref: v2::CrossVersionObjectReference {
                api_version: target.api_version,
                kind: target.kind,
                name: target.name,
            },
        },
        status: Some(v2::HorizontalPodAutoscalerStatus {
            conditions: conditions
                .map(|conditions| conditions.into_iter().map(Into::into).collect()),
            current_metrics: current,
            current_replicas: Some(status.current_replicas).filter(|count| *count != 0),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
    }
}

fn keep<T: Serialize>(annotations: &mut BTreeMap<String, String>, name: &str, value: &T) {
    if let Ok(text) = serde_json::to_string(value) {
        annotations.insert(name.to_owned(), text);
    }
}

fn keep_list<T: Serialize>(annotations: &mut BTreeMap<String, String>, name: &str, list: &[T]) {
    if !list.is_empty() {
        keep(annotations, name, &list);
    }
}

fn taken<T: DeserializeOwned>(annotations: &mut BTreeMap<String, String>, name: &str) -> Option<T> {
    let text = annotations.remove(name)?;
    serde_json::from_str(&text).ok()
}

fn used_cpu(percent: i32) -> Vec<v2::MetricStatus> {
    vec![v2::MetricStatus {
        type_: "Resource".to_owned(),
        resource: Some(v2::ResourceMetricStatus {
            name: "cpu".to_owned(),
            current: v2::MetricValueStatus {
                average_utilization: Some(percent),
                ..v2::MetricValueStatus::default()
            },
        }),
        ..v2::MetricStatus::default()
    }]
}

impl From<v2::HorizontalPodAutoscalerBehavior> for Behavior {
    fn from(behavior: v2::HorizontalPodAutoscalerBehavior) -> Self {
        Self {
            scale_up: behavior.scale_up.map(Into::into),
            scale_down: behavior.scale_down.map(Into::into),
        }
    }
}

impl From<Behavior> for v2::HorizontalPodAutoscalerBehavior {
    fn from(behavior: Behavior) -> Self {
        // Rules that are there are taken as they are; only a missing direction is filled in.
        let or = |rules: Option<v2::HPAScalingRules>, default: fn(Option<_>) -> _| {
            rules.unwrap_or_else(|| default(None))
        };
        Self {
            scale_up: Some(or(behavior.scale_up.map(Into::into), scale_up)),
            scale_down: Some(or(behavior.scale_down.map(Into::into), scale_down)),
        }
    }
}

impl From<v2::HorizontalPodAutoscalerCondition> for Condition {
    fn from(condition: v2::HorizontalPodAutoscalerCondition) -> Self {
        Self {
            r#type: condition.type_,
            status: condition.status,
            last_transition_time: condition.last_transition_time,
            reason: condition.reason,
            message: condition.message,
        }
    }
}

impl From<Condition> for v2::HorizontalPodAutoscalerCondition {
    fn from(condition: Condition) -> Self {
        Self {
            type_: condition.r#type,
            status: condition.status,
            last_transition_time: condition.last_transition_time,
            reason: condition.reason,
            message: condition.message,
        }
    }
}

impl From<v2::CrossVersionObjectReference> for Target {
    fn from(target: v2::CrossVersionObjectReference) -> Self {
        Self {
            kind: target.kind,
            name: target.name,
            api_version: target.api_version,
        }
    }
}

impl From<Target> for v2::CrossVersionObjectReference {
    fn from(target: Target) -> Self {
        Self {
            kind: target.kind,
            name: target.name,
            api_version: target.api_version,
        }
    }
}

impl From<v2::MetricSpec> for Metric {
    fn from(metric: v2::MetricSpec) -> Self {
        let amount = |value: Option<_>| value.map(Amount::from);
        Self {
            r#type: metric.type_,
            object: metric.object.map(|source| ObjectMetric {
                target: source.described_object.into(),
                metric_name: source.metric.name,
                target_value: amount(source.target.value).unwrap_or_default(),
                selector: source.metric.selector,
                average_value: amount(source.target.average_value),
            }),
            pods: metric.pods.map(|source| PodsMetric {
                metric_name: source.metric.name,
                target_average_value: amount(source.target.average_value).unwrap_or_default(),
                selector: source.metric.selector,
            }),
            resource: metric.resource.map(|source| ResourceMetric {
                name: source.name,
                target_average_utilization: source.target.average_utilization,
                target_average_value: amount(source.target.average_value),
            }),
            container_resource: metric.container_resource.map(|source| ContainerMetric {
                name: source.name,
                target_average_utilization: source.target.average_utilization,
                target_average_value: amount(source.target.average_value),
                container: source.container,
            }),
            external: metric.external.map(|source| ExternalMetric {
                metric_name: source.metric.name,
                metric_selector: source.metric.selector,
                target_value: amount(source.target.value),
                target_average_value: amount(source.target.average_value),
            }),
        }
    }
}

/// A target whose type is told by what is there.
fn target(
    value: Option<Amount>,
    average: Option<Amount>,
    utilization: Option<i32>,
) -> v2::MetricTarget {
    let kind = match (&value, &average, utilization) {
        (_, _, Some(_)) => "Utilization",
        (Some(_), None, None) => "Value",
        _ => "AverageValue",
    };
    v2::MetricTarget {
        type_: kind.to_owned(),
        value: value.map(Into::into),
        average_value: average.map(Into::into),
        average_utilization: utilization,
    }
}

fn identifier(
    name: String,
    selector: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
) -> v2::MetricIdentifier {
    v2::MetricIdentifier { name, selector }
}

impl From<Metric> for v2::MetricSpec {
    fn from(metric: Metric) -> Self {
        Self {
            type_: metric.r#type,
            object: metric.object.map(|source| {
                // A value of zero stands beside an average because it must be there, not because anybody meant it.
                let meant =
                    source.average_value.is_none() || source.target_value != Amount::default();
                let value = Some(source.target_value).filter(|_| meant);
                v2::ObjectMetricSource {
                    described_object: source.target.into(),
                    metric: identifier(source.metric_name, source.selector),
                    target: target(value, source.average_value, None),
                }
            }),
            pods: metric.pods.map(|source| v2::PodsMetricSource {
                metric: identifier(source.metric_name, source.selector),
                target: target(None, Some(source.target_average_value), None),
            }),
            resource: metric.resource.map(|source| v2::ResourceMetricSource {
                name: source.name,
                target: target(
                    None,
                    source.target_average_value,
                    source.target_average_utilization,
                ),
            }),
            container_resource: metric.container_resource.map(|source| {
                v2::ContainerResourceMetricSource {
                    container: source.container,
                    name: source.name,
                    target: target(
                        None,
                        source.target_average_value,
                        source.target_average_utilization,
                    ),
                }
            }),
            external: metric.external.map(|source| v2::ExternalMetricSource {
                metric: identifier(source.metric_name, source.metric_selector),
                target: target(source.target_value, source.target_average_value, None),
            }),
        }
    }
}

impl From<v2::MetricStatus> for Current {
    fn from(metric: v2::MetricStatus) -> Self {
        let amount = |value: Option<_>| value.map(Amount::from);
        Self {
            r#type: metric.type_,
            object: metric.object.map(|found| ObjectCurrent {
                target: found.described_object.into(),
                metric_name: found.metric.name,
                current_value: amount(found.current.value).unwrap_or_default(),
                selector: found.metric.selector,
                average_value: amount(found.current.average_value),
            }),
            pods: metric.pods.map(|found| PodsCurrent {
                metric_name: found.metric.name,
                current_average_value: amount(found.current.average_value).unwrap_or_default(),
                selector: found.metric.selector,
            }),
            resource: metric.resource.map(|found| ResourceCurrent {
                name: found.name,
                current_average_utilization: found.current.average_utilization,
                current_average_value: amount(found.current.average_value).unwrap_or_default(),
            }),
            container_resource: metric.container_resource.map(|found| ContainerCurrent {
                name: found.name,
                current_average_utilization: found.current.average_utilization,
                current_average_value: amount(found.current.average_value).unwrap_or_default(),
                container: found.container,
            }),
            external: metric.external.map(|found| ExternalCurrent {
                metric_name: found.metric.name,
                metric_selector: found.metric.selector,
                current_value: amount(found.current.value).unwrap_or_default(),
                current_average_value: amount(found.current.average_value),
            }),
        }
    }
}

fn measured(
    value: Option<Amount>,
    average: Option<Amount>,
    utilization: Option<i32>,
) -> v2::MetricValueStatus {
    v2::MetricValueStatus {
        value: value.map(Into::into),
        average_value: average.map(Into::into),
        average_utilization: utilization,
    }
}

impl From<Current> for v2::MetricStatus {
    fn from(metric: Current) -> Self {
        Self {
            type_: metric.r#type,
            object: metric.object.map(|found| v2::ObjectMetricStatus {
                current: measured(Some(found.current_value), found.average_value, None),
                described_object: found.target.into(),
                metric: identifier(found.metric_name, found.selector),
            }),
            pods: metric.pods.map(|found| v2::PodsMetricStatus {
                current: measured(None, Some(found.current_average_value), None),
                metric: identifier(found.metric_name, found.selector),
            }),
            resource: metric.resource.map(|found| v2::ResourceMetricStatus {
                current: measured(
                    None,
                    Some(found.current_average_value),
                    found.current_average_utilization,
                ),
                name: found.name,
            }),
            container_resource: metric.container_resource.map(|found| {
                v2::ContainerResourceMetricStatus {
                    container: found.container,
                    current: measured(
                        None,
                        Some(found.current_average_value),
                        found.current_average_utilization,
                    ),
                    name: found.name,
                }
            }),
            external: metric.external.map(|found| v2::ExternalMetricStatus {
                current: measured(Some(found.current_value), found.current_average_value, None),
                metric: identifier(found.metric_name, found.metric_selector),
            }),
        }
    }
}
