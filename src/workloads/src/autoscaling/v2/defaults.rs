//! What is filled in where an autoscaler is silent.

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};

use super::DEFAULT_CPU;

pub(super) fn apply(spec: &mut HorizontalPodAutoscalerSpec) {
    spec.min_replicas.get_or_insert(1);
    if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
        spec.metrics = Some(vec![cpu_utilization(DEFAULT_CPU)]);
    }
    if let Some(behavior) = &mut spec.behavior {
        behavior.scale_up = Some(scale_up(behavior.scale_up.take()));
        behavior.scale_down = Some(scale_down(behavior.scale_down.take()));
    }
}

/// The metric "this much of the CPU that pods ask for", in percent.
pub(in super::super) fn cpu_utilization(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Up: at once, by four pods or as many as there are, each quarter of a minute.
pub(in super::super) fn scale_up(rules: Option<HPAScalingRules>) -> HPAScalingRules {
    let mut rules = rules.unwrap_or_default();
    rules.stabilization_window_seconds.get_or_insert(0);
    complete(rules, &[("Pods", 4), ("Percent", 100)])
}

/// Down: to any size. How long to wait before is the controller's own setting.
pub(in super::super) fn scale_down(rules: Option<HPAScalingRules>) -> HPAScalingRules {
    complete(rules.unwrap_or_default(), &[("Percent", 100)])
}

fn complete(mut rules: HPAScalingRules, policies: &[(&str, i32)]) -> HPAScalingRules {
    const PERIOD: i32 = 15;
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    rules.policies.get_or_insert_with(|| {
        let policy = |(kind, value): &(&str, i32)| HPAScalingPolicy {
            type_: (*kind).to_owned(),
            value: *value,
            period_seconds: PERIOD,
        };
        policies.iter().map(policy).collect()
    });
    rules
}
