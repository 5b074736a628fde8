//! What the annotations hold in which `autoscaling/v1` keeps the rest of v2: metrics in the words of old, and the behavior
//! under the names that Go's fields have.

use k8s_openapi::api::autoscaling::v2;
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use vaquita_api::quantity;

/// `spec.metrics` without the use of CPU: a list of [`Metric`].
pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
/// `spec.behavior`: a [`Behavior`].
pub(super) const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// `status.currentMetrics`: a list of [`Current`].
pub(super) const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
/// `status.conditions`: a list of [`Condition`].
pub(super) const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// A quantity in its canonical form: nobody has looked at those in annotations before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Amount(pub(super) String);

impl Default for Amount {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let amount: quantity::Quantity = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(amount.to_string()))
    }
}

impl From<resource::Quantity> for Amount {
    fn from(quantity: resource::Quantity) -> Self {
        Self(quantity.0)
    }
}

impl From<Amount> for resource::Quantity {
    fn from(amount: Amount) -> Self {
        Self(amount.0)
    }
}

/// Declares structs whose fields are left out where they are empty, and may be left out.
macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "Skip::skip")] pub(super) $field: $type,)*
        }
    )*};
}

/// Which values are left out.
trait Skip {
    fn skip(&self) -> bool {
        false
    }
}

impl<T> Skip for Option<T> {
    fn skip(&self) -> bool {
        self.is_none()
    }
}

impl Skip for String {}
impl Skip for Amount {}
impl Skip for Target {}

forms! {
    /// An object by its kind and name.
    Target {
        kind: String,
        name: String,
        api_version: Option<String>,
    }

    Metric {
        r#type: String,
        object: Option<ObjectMetric>,
        pods: Option<PodsMetric>,
        resource: Option<ResourceMetric>,
        container_resource: Option<ContainerMetric>,
        external: Option<ExternalMetric>,
    }

    ObjectMetric {
        target: Target,
        metric_name: String,
        target_value: Amount,
        selector: Option<LabelSelector>,
        average_value: Option<Amount>,
    }

    PodsMetric {
        metric_name: String,
        target_average_value: Amount,
        selector: Option<LabelSelector>,
    }

    ResourceMetric {
        name: String,
        target_average_utilization: Option<i32>,
        target_average_value: Option<Amount>,
    }

    ContainerMetric {
        name: String,
        target_average_utilization: Option<i32>,
        target_average_value: Option<Amount>,
        container: String,
    }

    ExternalMetric {
        metric_name: String,
        metric_selector: Option<LabelSelector>,
        target_value: Option<Amount>,
        target_average_value: Option<Amount>,
    }

    /// What was measured.
    Current {
        r#type: String,
        object: Option<ObjectCurrent>,
        pods: Option<PodsCurrent>,
        resource: Option<ResourceCurrent>,
        container_resource: Option<ContainerCurrent>,
        external: Option<ExternalCurrent>,
    }

    ObjectCurrent {
        target: Target,
        metric_name: String,
        current_value: Amount,
        selector: Option<LabelSelector>,
        average_value: Option<Amount>,
    }

    PodsCurrent {
        metric_name: String,
        current_average_value: Amount,
        selector: Option<LabelSelector>,
    }

    ResourceCurrent {
        name: String,
        current_average_utilization: Option<i32>,
        current_average_value: Amount,
    }

    ContainerCurrent {
        name: String,
        current_average_utilization: Option<i32>,
        current_average_value: Amount,
        container: String,
    }

    ExternalCurrent {
        metric_name: String,
        metric_selector: Option<LabelSelector>,
        current_value: Amount,
        current_average_value: Option<Amount>,
    }

    Condition {
        r#type: String,
        status: String,
        last_transition_time: Option<Time>,
        reason: Option<String>,
        message: Option<String>,
    }
}

/// The behavior, under the names of Go's fields; Go reads them in any case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Behavior {
    #[serde(alias = "scaleUp")]
    pub(super) scale_up: Option<Rules>,
    #[serde(alias = "scaleDown")]
    pub(super) scale_down: Option<Rules>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Rules {
    #[serde(alias = "stabilizationWindowSeconds")]
    stabilization_window_seconds: Option<i32>,
    #[serde(alias = "selectPolicy")]
    select_policy: Option<String>,
    #[serde(alias = "policies")]
    policies: Option<Vec<Policy>>,
    #[serde(alias = "tolerance")]
    tolerance: Option<Amount>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Policy {
    #[serde(alias = "type")]
    r#type: String,
    #[serde(alias = "value")]
    value: i32,
    #[serde(alias = "periodSeconds")]
    period_seconds: i32,
}

impl From<v2::HPAScalingRules> for Rules {
    fn from(rules: v2::HPAScalingRules) -> Self {
        let policy = |policy: v2::HPAScalingPolicy| Policy {
            r#type: policy.type_,
            value: policy.value,
            period_seconds: policy.period_seconds,
        };
        Self {
            stabilization_window_seconds: rules.stabilization_window_seconds,
            select_policy: rules.select_policy,
            policies: rules
                .policies
                .map(|policies| policies.into_iter().map(policy).collect()),
            tolerance: rules.tolerance.map(Amount::from),
        }
    }
}

impl From<Rules> for v2::HPAScalingRules {
    fn from(rules: Rules) -> Self {
        let policy = |policy: Policy| v2::HPAScalingPolicy {
            type_: policy.r#type,
            value: policy.value,
            period_seconds: policy.period_seconds,
        };
        Self {
            stabilization_window_seconds: rules.stabilization_window_seconds,
            select_policy: rules.select_policy,
            policies: rules
                .policies
                .map(|policies| policies.into_iter().map(policy).collect()),
            tolerance: rules.tolerance.map(Into::into),
        }
    }
}
