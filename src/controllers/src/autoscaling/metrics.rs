//! Where metrics come from: `metrics.k8s.io` for resources, and whoever serves `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io` for all others.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::autoscaling::v2::CrossVersionObjectReference,
    apimachinery::pkg::apis::meta::v1::LabelSelector as Selector,
};
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use vaquita_api::{quantity::Quantity, selector::LabelSelector};

use super::replicas::{PodMetric, PodMetrics};
use vaquita_reconcile::{
    meta,
    scale::{ScaleError, Scales, Target},
};

/// Why there is no metric.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetricsError {
    #[error(
        "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {}",
        meta::message(source)
    )]
    Resource {
        resource: String,
        source: kube::Error,
    },
    #[error(
        "unable to get metrics for resource {0}: no metrics returned from resource metrics API"
    )]
    NoResource(String),
    #[error(
        "unable to get metric {metric}: unable to fetch metrics from custom metrics API: {}",
        meta::message(source)
    )]
    Custom { metric: String, source: kube::Error },
    #[error(
        "unable to get metric {0}: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
    )]
    NoCustomApi(String),
    #[error("unable to get metric {0}: no metrics returned from custom metrics API")]
    NoCustom(String),
    #[error(
        "unable to get external metric {metric}: unable to fetch metrics from external metrics API: {}",
        meta::message(source)
    )]
    External { metric: String, source: kube::Error },
    #[error("unable to get external metric {0}: no metrics returned from external metrics API")]
    NoExternal(String),
    #[error("unable to get metric {metric}: {source}")]
    Described { metric: String, source: ScaleError },
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct MeasuredPod {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<MeasuredContainer>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct MeasuredContainer {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CustomValue {
    described_object: Named,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: Value,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: Value,
}

fn milli(value: &Value) -> Option<i64> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(text.parse::<Quantity>().ok()?.milli_value())
}

/// Asks for metrics. Nothing is kept.
pub(super) struct Metrics {
    client: Client,
    scales: Scales,
}

impl Metrics {
    pub(super) fn new(client: Client, scales: Scales) -> Self {
        Self { client, scales }
    }

    /// What the pods use of a resource; of a container alone, if one is named. Pods that don't say are left out.
    pub(super) async fn of_resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, MetricsError> {
        let selector = encoded(selector);
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}"
        );
        let pods: List<MeasuredPod> =
            self.get(&path)
                .await
                .map_err(|source| MetricsError::Resource {
                    resource: resource.to_owned(),
                    source,
                })?;
        if pods.items.is_empty() {
            return Err(MetricsError::NoResource(resource.to_owned()));
        }
        let used = |pod: &MeasuredPod| {
            let counted = pod
                .containers
                .iter()
                .filter(|own| container.is_none_or(|wanted| own.name == wanted));
            let amounts = counted.map(|own| milli(&own.usage.get(resource)?.as_str().into()));
            let amounts = amounts.collect::<Option<Vec<_>>>()?;
            (!amounts.is_empty()).then(|| amounts.into_iter().fold(0_i64, i64::saturating_add))
        };
        let metrics = pods.items.into_iter().filter_map(|pod| {
            let metric = PodMetric {
                value: used(&pod)?,
                time: pod.timestamp,
                window: duration(&pod.window),
            };
            Some((pod.metadata.name, metric))
        });
        Ok(metrics.collect())
    }

    /// A metric of each of the pods.
    pub(super) async fn of_pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: Option<&Selector>,
    ) -> Result<PodMetrics, MetricsError> {
        let mut query = vec![format!("labelSelector={}", encoded(selector))];
        query.extend(labels("metricLabelSelector", metric_selector));
        let path = format!(
            "namespaces/{namespace}/pods/*/{}?{}",
            encoded(metric),
            query.join("&")
        );
        let values = self.custom(&path, metric).await?;
        let metrics = values.into_iter().filter_map(|value| {
            let window = value.window_seconds.unwrap_or(60);
            let of_pod = PodMetric {
                value: milli(&value.value)?,
                time: value.timestamp,
                window: Duration::from_secs(u64::try_from(window).unwrap_or(0)),
            };
            Some((value.described_object.name, of_pod))
        });
        Ok(metrics.collect())
    }

    /// A metric of one object.
    pub(super) async fn of_object(
        &self,
        namespace: &str,
        object: &CrossVersionObjectReference,
        metric: &str,
        metric_selector: Option<&Selector>,
    ) -> Result<i64, MetricsError> {
        let query = labels("metricLabelSelector", metric_selector);
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let (name, encoded_metric) = (encoded(&object.name), encoded(metric));
        let path = if object.kind == "Namespace" {
            format!("namespaces/{name}/metrics/{encoded_metric}{query}")
        } else {
            let target = Target {
                api_version: object
                    .api_version
                    .clone()
                    .unwrap_or_else(|| "v1".to_owned()),
                kind: object.kind.clone(),
                name: object.name.clone(),
            };
            let resource = self.scales.resource(&target).await;
            let resource = resource.map_err(|source| MetricsError::Described {
                metric: metric.to_owned(),
                source,
            })?;
            let plural = match &*resource.group {
                "" => resource.plural,
                group => format!("{}.{group}", resource.plural),
            };
            format!("namespaces/{namespace}/{plural}/{name}/{encoded_metric}{query}")
        };
        let values = self.custom(&path, metric).await?;
        let value = values.first().and_then(|value| milli(&value.value));
        value.ok_or_else(|| MetricsError::NoCustom(metric.to_owned()))
    }

    /// A metric of something else: the sum of all its values.
    pub(super) async fn external(
        &self,
        namespace: &str,
        metric: &str,
        selector: Option<&Selector>,
    ) -> Result<i64, MetricsError> {
        let query = labels("labelSelector", selector);
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}{query}",
            encoded(metric)
        );
        let values: List<ExternalValue> =
            self.get(&path)
                .await
                .map_err(|source| MetricsError::External {
                    metric: metric.to_owned(),
                    source,
                })?;
        let values: Vec<i64> = values
            .items
            .iter()
            .filter_map(|value| milli(&value.value))
            .collect();
        if values.is_empty() {
            return Err(MetricsError::NoExternal(metric.to_owned()));
        }
        Ok(values.into_iter().fold(0, i64::saturating_add))
    }

    /// By the newest version of the custom metrics API that somebody serves.
    async fn custom(&self, path: &str, metric: &str) -> Result<Vec<CustomValue>, MetricsError> {
        let failed = |source| MetricsError::Custom {
            metric: metric.to_owned(),
            source,
        };
        let groups = self.client.list_api_groups().await.map_err(failed)?.groups;
        let group = groups
            .into_iter()
            .find(|group| group.name == "custom.metrics.k8s.io");
        let version = group.and_then(|group| {
            let serves = |version: &str| group.versions.iter().any(|own| own.version == version);
            ["v1beta2", "v1beta1"]
                .into_iter()
                .find(|version| serves(version))
        });
        let Some(version) = version else {
            return Err(MetricsError::NoCustomApi(metric.to_owned()));
        };
        let path = format!("/apis/custom.metrics.k8s.io/{version}/{path}");
        let values: List<CustomValue> = self.get(&path).await.map_err(failed)?;
        if values.items.is_empty() {
            return Err(MetricsError::NoCustom(metric.to_owned()));
        }
        Ok(values.items)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn labels(parameter: &str, selector: Option<&Selector>) -> Option<String> {
    let selector = LabelSelector::from_object(Some(selector?)).ok()?;
    Some(format!("{parameter}={}", encoded(&selector.to_string())))
}

/// A duration as Go writes it; nothing if it makes no sense.
fn duration(text: &str) -> Duration {
    let parsed: Result<SignedDuration, _> = text.parse();
    parsed
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read() {
        assert_eq!(duration("15.103s"), Duration::from_millis(15_103));
        assert_eq!(duration("1m1.5s"), Duration::from_millis(61_500));
        assert_eq!(duration("soon"), Duration::ZERO);
    }
}
