//! What Deployments and `ReplicationControllers` have in common for one who puts them to sleep. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ReplicationController, Service},
};
use kube::ResourceExt as _;
use vaquita_reconcile::{ObjectKey, meta};

use super::{IDLE, REPLICAS};

/// The kinds that can sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Deployment,
    ReplicationController,
}

impl Kind {
    /// As it is in paths and in [`WAKES`](super::WAKES).
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::ReplicationController => "replicationcontrollers",
        }
    }
}

/// A workload of a namespace that is known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.resource(), self.name)
    }
}

impl FromStr for Reference {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (resource, name) = text.trim().split_once('/').ok_or(())?;
        let kinds = [Kind::Deployment, Kind::ReplicationController];
        let kind = kinds.into_iter().find(|kind| kind.resource() == resource);
        Ok(Self {
            kind: kind.ok_or(())?,
            name: name.to_owned(),
        })
    }
}

/// What matters of a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) key: ObjectKey,
    pub(super) kind: Kind,
    pub(super) uid: String,
    pub(super) version: Option<String>,
    /// The annotation, as it is written.
    pub(super) idle: Option<String>,
    /// How many replicas are wanted.
    pub(super) replicas: i32,
    /// How many it goes back to, if it was put to sleep.
    pub(super) awake: Option<i32>,
    /// Whether all that is wanted is there, of one version, and nothing is under way.
    pub(super) settled: bool,
    labels: BTreeMap<String, String>,
}

impl Workload {
    pub(super) fn of_deployment(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let all = Some(replicas);
        let settled = status.observed_generation >= deployment.metadata.generation
            && spec.and_then(|spec| spec.paused) != Some(true)
            && status.replicas == all
            && status.updated_replicas == all
            && status.available_replicas == all;
        let template = spec.and_then(|spec| spec.template.metadata.as_ref());
        let labels = template.and_then(|template| template.labels.clone());
        Self::new(deployment, Kind::Deployment, replicas, settled, labels)
    }

    pub(super) fn of_controller(controller: &ReplicationController) -> Self {
        let spec = controller.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = controller.status.clone().unwrap_or_default();
        let settled = status.observed_generation >= controller.metadata.generation
            && status.replicas == replicas
            && status.ready_replicas == Some(replicas);
        let template = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref());
        let labels = template.and_then(|template| template.labels.clone());
        let kind = Kind::ReplicationController;
        Self::new(controller, kind, replicas, settled, labels)
    }

    fn new<K: kube::Resource>(
        object: &K,
        kind: Kind,
        replicas: i32,
        settled: bool,
        labels: Option<BTreeMap<String, String>>,
    ) -> Self {
        let annotation = |name| object.annotations().get(name);
        // What somebody else wrote there is still a wish to be woken.
        let awake = annotation(REPLICAS).map(|text| text.parse().unwrap_or(1).max(1));
        Self {
            key: ObjectKey::of(object),
            kind,
            uid: meta::uid(object).to_owned(),
            version: object.resource_version(),
            idle: annotation(IDLE).cloned(),
            replicas,
            awake,
            settled: settled && !meta::is_terminating(object.meta()),
            labels: labels.unwrap_or_default(),
        }
    }

    pub(super) fn reference(&self) -> Reference {
        Reference {
            kind: self.kind,
            name: self.key.name.clone(),
        }
    }

    /// Whether a connect to the Service is worth holding for it: it takes part, and runs or sleeps. One that was
    /// scaled to zero by hand is off.
    pub(super) fn can_wake(&self) -> bool {
        let takes_part = self.idle.as_deref().map(super::parse_idle);
        matches!(takes_part, Some(Ok(_))) && (self.replicas > 0 || self.awake.is_some())
    }

    /// Whether the Service selects its pods.
    pub(super) fn is_behind(&self, service: &Service) -> bool {
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(name, value)| self.labels.get(name) == Some(value))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn deployment(annotations: &Value, replicas: i32, status: &Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "uid", "generation": 3, "annotations": annotations},
            "spec": {"replicas": replicas, "selector": {}, "template": {"metadata": {"labels": {"app": "web", "v": "1"}}}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_over_when_all_is_there() {
        let all = |n| json!({"observedGeneration": 3, "replicas": n, "updatedReplicas": n, "availableReplicas": n});
        let settled =
            |status: &Value| Workload::of_deployment(&deployment(&json!({}), 2, status)).settled;
        assert!(settled(&all(2)));
        assert!(!settled(&all(1)));
        for (field, value) in [
            ("observedGeneration", 2),
            ("replicas", 3),
            ("updatedReplicas", 1),
            ("availableReplicas", 0),
        ] {
            let mut status = all(2);
            status[field] = value.into();
            assert!(!settled(&status), "{field}");
        }
        let mut paused = deployment(&json!({}), 2, &all(2));
        paused.spec.as_mut().unwrap().paused = Some(true);
        assert!(!Workload::of_deployment(&paused).settled);
    }

    #[test]
    fn who_was_switched_off_by_hand_is_not_woken() {
        let can_wake = |annotations: Value, replicas| {
            Workload::of_deployment(&deployment(&annotations, replicas, &json!({}))).can_wake()
        };
        assert!(can_wake(json!({IDLE: "5s"}), 1));
        assert!(can_wake(json!({IDLE: "5s", REPLICAS: "2"}), 0));
        assert!(!can_wake(json!({IDLE: "5s"}), 0));
        assert!(!can_wake(json!({IDLE: "x"}), 1));
        assert!(!can_wake(json!({}), 1));
    }

    #[test]
    fn services_select_by_a_part_of_the_labels() {
        let workload = Workload::of_deployment(&deployment(&json!({}), 1, &json!({})));
        let behind = |selector: Value| {
            let service = json!({"metadata": {"name": "s"}, "spec": {"selector": selector}});
            workload.is_behind(&serde_json::from_value(service).unwrap())
        };
        assert!(behind(json!({"app": "web"})));
        assert!(behind(json!({"app": "web", "v": "1"})));
        assert!(!behind(json!({"app": "web", "v": "2"})));
        assert!(!behind(json!({})));
    }

    #[test]
    fn references_read_as_they_are_written() {
        for text in ["deployments/web", "replicationcontrollers/web"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        for text in ["", "web", "pods/web"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
