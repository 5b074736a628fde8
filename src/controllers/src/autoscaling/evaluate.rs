//! What the metrics of an autoscaler ask for, each and all together.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        autoscaling::{
            v1::Scale,
            v2::{
                ContainerResourceMetricSource, ContainerResourceMetricStatus, ExternalMetricSource,
                ExternalMetricStatus, HorizontalPodAutoscaler, MetricSpec, MetricStatus,
                MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
                PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
            },
        },
        core::v1::Pod,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt as _;
use vaquita_api::{quantity, selector::LabelSelector};

use super::{
    metrics::{Metrics, MetricsError},
    replicas::{self, Aim, CalculationError, Proposal, Target, Tolerances},
    selectors::Selectors,
    status::Report,
};
use vaquita_reconcile::{ObjectKey, Recorder, informer::Informer};

/// How far metrics may be from their targets if nothing else is said.
const TOLERANCE: f64 = 0.1;

/// Why a metric asks for no number of replicas.
#[derive(Debug, thiserror::Error)]
enum MetricError {
    #[error("failed to get {resource} {what}: {source}")]
    Resource {
        resource: String,
        what: &'static str,
        source: Cause,
    },
    #[error("failed to get pods metric value: {0}")]
    Pods(Cause),
    #[error("failed to get object metric value: {0}")]
    Object(Cause),
    #[error("failed to get {name} external metric value: {source}")]
    External { name: String, source: Cause },
    #[error("unknown metric source type {0:?}")]
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Calculation(#[from] CalculationError),
    #[error(
        "invalid {0} metric source: neither a value target nor an average value target was set"
    )]
    NoTarget(&'static str),
}

/// What one metric asks for.
struct Asked {
    replicas: i32,
    /// For messages.
    name: String,
    status: MetricStatus,
}

/// What evaluating an autoscaler's metrics takes.
pub(super) struct Evaluation<'e> {
    pub(super) key: &'e ObjectKey,
    pub(super) autoscaler: &'e HorizontalPodAutoscaler,
    pub(super) selectors: &'e Selectors,
    pub(super) pods: &'e Informer<Pod>,
    pub(super) metrics: &'e Metrics,
    pub(super) recorder: &'e Recorder,
    /// What time it is.
    pub(super) now: Timestamp,
}

/// The pods that a scale is about.
struct Subject {
    namespace: String,
    selector: String,
    pods: Vec<Arc<Pod>>,
    /// How many replicas there are to be now, and how many there are.
    current: i32,
    present: i32,
    tolerances: Tolerances,
}

impl Evaluation<'_> {
    /// The largest number that a metric asks for, and the metric's name. Nothing if that cannot be told: none can be had,
    /// or one cannot and the others ask for less than there is.
    pub(super) async fn all(
        &self,
        scale: &Scale,
        current: i32,
        report: &mut Report,
    ) -> Option<(i32, String)> {
        let subject = self.subject(scale, current, report)?;
        let specs = self.autoscaler.spec.metrics.as_deref().unwrap_or_default();
        let mut best: Option<(i32, String)> = None;
        let mut first_error: Option<(&'static str, MetricError)> = None;
        let (mut statuses, mut failed) = (Vec::new(), 0);
        for spec in specs {
            match self.one(spec, &subject).await {
                Ok(asked) => {
                    statuses.push(asked.status);
                    if best.as_ref().is_none_or(|best| asked.replicas > best.0) {
                        best = Some((asked.replicas, asked.name));
                    }
                }
                Err(error) => {
                    failed += 1;
                    let reason = failure_reason(spec);
                    self.recorder
                        .warning(self.autoscaler, reason, error.to_string());
                    first_error.get_or_insert((reason, error));
                }
            }
        }
        report.metrics(statuses);
        if let Some((reason, error)) = &first_error {
            let message = format!(
                "invalid metrics ({failed} invalid out of {}), first error is: {error}",
                specs.len()
            );
            self.recorder
                .warning(self.autoscaler, "FailedComputeMetricsReplicas", message);
            if best.as_ref().is_none_or(|best| best.0 < current) {
                let message = format!("the HPA was unable to compute the replica count: {error}");
                report.active(false, reason, message);
                return None;
            }
        }
        let best = best?;
        let message = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            best.1
        );
        report.active(true, "ValidMetricFound", message);
        Some(best)
    }

    fn subject(&self, scale: &Scale, current: i32, report: &mut Report) -> Option<Subject> {
        let namespace = self.autoscaler.namespace().unwrap_or_default();
        let status = scale.status.clone().unwrap_or_default();
        let text = status.selector.unwrap_or_default();
        if text.is_empty() {
            self.refuse("SelectorRequired", "selector is required");
            let why = "the HPA target's scale is missing a selector";
            report.active(false, "InvalidSelector", why.to_owned());
            return None;
        }
        let selector = match LabelSelector::parse(&text) {
            Ok(selector) => selector,
            Err(error) => {
                let why = format!(
                    "couldn't convert selector into a corresponding internal selector object: {error}"
                );
                self.refuse("InvalidSelector", &why);
                report.active(false, "InvalidSelector", why);
                return None;
            }
        };
        let selected = |pod: &Pod| selector.matches(pod.labels());
        let pods = self.pods.store().in_namespace(&namespace, selected);
        let rivals = self.selectors.claim(self.key, &selector, &pods);
        if rivals.len() > 1 {
            let rivals: Vec<String> = rivals.iter().map(ToString::to_string).collect();
            let why = format!(
                "pods by selector {text} are controlled by multiple HPAs: [{}]",
                rivals.join(" ")
            );
            self.refuse("AmbiguousSelector", &why);
            report.active(false, "AmbiguousSelector", why);
            return None;
        }
        Some(Subject {
            pods,
            namespace,
            selector: text,
            current,
            present: status.replicas,
            tolerances: self.tolerances(),
        })
    }

    /// Records why there is nothing to be computed.
    fn refuse(&self, reason: &'static str, why: &str) {
        for reason in [reason, "FailedComputeMetricsReplicas"] {
            self.recorder
                .warning(self.autoscaler, reason, why.to_owned());
        }
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.autoscaler.spec.behavior.as_ref();
        let of = |text: Option<&Quantity>| {
            let milli = text.and_then(|text| text.0.parse::<quantity::Quantity>().ok());
            milli.map_or(TOLERANCE, |tolerance| {
                i32::try_from(tolerance.milli_value()).map_or(1.0, f64::from) / 1000.0
            })
        };
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref()?.tolerance.as_ref());
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref()?.tolerance.as_ref());
        Tolerances {
            up: of(up),
            down: of(down),
        }
    }

    async fn one(&self, spec: &MetricSpec, subject: &Subject) -> Result<Asked, MetricError> {
        match spec {
            MetricSpec {
                resource: Some(source),
                ..
            } => self.resource(source, subject).await,
            MetricSpec {
                container_resource: Some(source),
                ..
            } => self.container(source, subject).await,
            MetricSpec {
                pods: Some(source), ..
            } => self
                .each_pod(source, subject)
                .await
                .map_err(MetricError::Pods),
            MetricSpec {
                object: Some(source),
                ..
            } => self
                .object(source, subject)
                .await
                .map_err(MetricError::Object),
            MetricSpec {
                external: Some(source),
                ..
            } => self
                .external(source, subject)
                .await
                .map_err(|cause| MetricError::External {
                    name: source.metric.name.clone(),
                    source: cause,
                }),
            _ => Err(MetricError::Unknown(spec.type_.clone())),
        }
    }

    async fn resource(
        &self,
        source: &ResourceMetricSource,
        subject: &Subject,
    ) -> Result<Asked, MetricError> {
        let (proposal, what) = self
            .measured(subject, &source.name, None, &source.target)
            .await?;
        let status = MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: of_proposal(proposal),
            }),
            ..MetricStatus::default()
        };
        Ok(Asked {
            replicas: proposal.replicas,
            name: format!("{} resource{what}", source.name),
            status,
        })
    }

    async fn container(
        &self,
        source: &ContainerResourceMetricSource,
        subject: &Subject,
    ) -> Result<Asked, MetricError> {
        let container = Some(source.container.as_str());
        let (proposal, what) = self
            .measured(subject, &source.name, container, &source.target)
            .await?;
        let status = MetricStatus {
            type_: "ContainerResource".to_owned(),
            container_resource: Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: of_proposal(proposal),
            }),
            ..MetricStatus::default()
        };
        Ok(Asked {
            replicas: proposal.replicas,
            name: format!("{} container resource{what}", source.name),
            status,
        })
    }

    /// What a resource asks for, and what of it is meant.
    async fn measured(
        &self,
        subject: &Subject,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(Proposal, &'static str), MetricError> {
        let (aim, what, failing) = match (
            milli(target.average_value.as_ref()),
            target.average_utilization,
        ) {
            (Some(average), _) => (Aim::Average(average), "", "usage"),
            (None, Some(percent)) => (
                Aim::Utilization(percent),
                " utilization (percentage of request)",
                "utilization",
            ),
            (None, None) => {
                return Err(MetricError::Resource {
                    resource: resource.to_owned(),
                    what: "utilization",
                    source: Cause::NoTarget("resource"),
                });
            }
        };
        let failed = |source| MetricError::Resource {
            resource: resource.to_owned(),
            what: failing,
            source,
        };
        let target = Target {
            resource: Some(resource),
            container,
            aim,
        };
        let metrics =
            self.metrics
                .of_resource(&subject.namespace, &subject.selector, resource, container);
        let metrics = metrics.await.map_err(|error| failed(error.into()))?;
        let proposal = replicas::of_pods(
            subject.current,
            &subject.pods,
            metrics,
            target,
            subject.tolerances,
            self.now,
        );
        Ok((proposal.map_err(|error| failed(error.into()))?, what))
    }

    async fn each_pod(&self, source: &PodsMetricSource, subject: &Subject) -> Result<Asked, Cause> {
        let average = milli(source.target.average_value.as_ref()).ok_or(Cause::NoTarget("pods"))?;
        let metric = &source.metric;
        let metrics = self
            .metrics
            .of_pods(
                &subject.namespace,
                &subject.selector,
                &metric.name,
                metric.selector.as_ref(),
            )
            .await?;
        let target = Target {
            resource: None,
            container: None,
            aim: Aim::Average(average),
        };
        let proposal = replicas::of_pods(
            subject.current,
            &subject.pods,
            metrics,
            target,
            subject.tolerances,
            self.now,
        )?;
        let status = MetricStatus {
            type_: "Pods".to_owned(),
            pods: Some(PodsMetricStatus {
                metric: metric.clone(),
                current: of_proposal(proposal),
            }),
            ..MetricStatus::default()
        };
        Ok(Asked {
            replicas: proposal.replicas,
            name: format!("pods metric {}", metric.name),
            status,
        })
    }

    async fn object(&self, source: &ObjectMetricSource, subject: &Subject) -> Result<Asked, Cause> {
        let metric = &source.metric;
        let object = &source.described_object;
        let value = self
            .metrics
            .of_object(
                &subject.namespace,
                object,
                &metric.name,
                metric.selector.as_ref(),
            )
            .await?;
        let (replicas, current) = of_total(value, &source.target, subject, "object")?;
        let status = MetricStatus {
            type_: "Object".to_owned(),
            object: Some(ObjectMetricStatus {
                metric: metric.clone(),
                described_object: object.clone(),
                current,
            }),
            ..MetricStatus::default()
        };
        Ok(Asked {
            replicas,
            name: format!("{} metric {}", object.kind, metric.name),
            status,
        })
    }

    async fn external(
        &self,
        source: &ExternalMetricSource,
        subject: &Subject,
    ) -> Result<Asked, Cause> {
        let metric = &source.metric;
        let value = self
            .metrics
            .external(&subject.namespace, &metric.name, metric.selector.as_ref())
            .await?;
        let (replicas, current) = of_total(value, &source.target, subject, "external")?;
        let status = MetricStatus {
            type_: "External".to_owned(),
            external: Some(ExternalMetricStatus {
                metric: metric.clone(),
                current,
            }),
            ..MetricStatus::default()
        };
        Ok(Asked {
            replicas,
            name: format!("external metric {}", metric.name),
            status,
        })
    }
}

/// What a value that is not of single pods asks for.
fn of_total(
    value: i64,
    target: &MetricTarget,
    subject: &Subject,
    source: &'static str,
) -> Result<(i32, MetricValueStatus), Cause> {
    if let Some(wanted) = milli(target.value.as_ref()) {
        let replicas = replicas::of_value(
            subject.current,
            &subject.pods,
            (value, wanted),
            subject.tolerances,
        )?;
        let current = MetricValueStatus {
            value: Some(quantity_of(value)),
            ..MetricValueStatus::default()
        };
        return Ok((replicas, current));
    }
    let wanted = milli(target.average_value.as_ref()).ok_or(Cause::NoTarget(source))?;
    let (replicas, average) =
        replicas::of_shares(subject.present, (value, wanted), subject.tolerances);
    let current = MetricValueStatus {
        average_value: Some(quantity_of(average)),
        ..MetricValueStatus::default()
    };
    Ok((replicas, current))
}

fn of_proposal(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity_of(proposal.average)),
        value: None,
    }
}

fn quantity_of(milli: i64) -> Quantity {
    Quantity(quantity::Quantity::milli(milli).to_string())
}

/// The amount in thousandths, if it is one.
fn milli(amount: Option<&Quantity>) -> Option<i64> {
    let amount = amount?.0.parse::<quantity::Quantity>().ok()?;
    Some(amount.milli_value())
}

fn failure_reason(spec: &MetricSpec) -> &'static str {
    match spec.type_.as_str() {
        "Resource" => "FailedGetResourceMetric",
        "ContainerResource" => "FailedGetContainerResourceMetric",
        "Pods" => "FailedGetPodsMetric",
        "Object" => "FailedGetObjectMetric",
        "External" => "FailedGetExternalMetric",
        _ => "InvalidMetricSourceType",
    }
}
