//! `v1` Pod.

mod binding;
mod label_keys;
mod metadata;
mod parts;
mod qos;
mod status;
mod table;
mod update;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodIP};
use serde_json::{Value, json};

use super::pod_spec;
use crate::{Here, PROXY, STREAM, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Part, Resource, SelectableField, Verb};
use vaquita_api::table::Column;
use vaquita_api::{Object, meta};

pub use binding::{BindError, bind};

pub(super) fn resource() -> Resource {
    let core = |kind| ("", "v1", kind);
    let written = [Verb::Get, Verb::Patch, Verb::Update];
    stored::<Pod>("pod", true)
        .short(&["po"])
        .in_all()
        .sub("attach", core("PodAttachOptions"), &STREAM)
        .sub("binding", core("Binding"), &[Verb::Create])
        .view("ephemeralcontainers", &written)
        .sub("eviction", ("policy", "v1", "Eviction"), &[Verb::Create])
        .sub("exec", core("PodExecOptions"), &STREAM)
        .view("log", &[Verb::Get])
        .sub("portforward", core("PodPortForwardOptions"), &STREAM)
        .sub("proxy", core("PodProxyOptions"), &PROXY)
        .view("resize", &written)
        .with_status()
}

impl Kind<Here> for Pod {
    const GENERATION: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[
        SelectableField::new("spec.nodeName", &["spec", "nodeName"], ""),
        // What the field was called before there was a v1.
        SelectableField::new("spec.host", &["spec", "nodeName"], ""),
        SelectableField::new("spec.restartPolicy", &["spec", "restartPolicy"], ""),
        SelectableField::new("spec.schedulerName", &["spec", "schedulerName"], ""),
        SelectableField::new(
            "spec.serviceAccountName",
            &["spec", "serviceAccountName"],
            "",
        ),
        SelectableField::new("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
        SelectableField::new("status.phase", &["status", "phase"], ""),
        SelectableField::new("status.podIP", &["status", "podIP"], ""),
        // Selectors may name the list, which then never has a value.
        SelectableField::new("status.podIPs", &["status", "podIPs"], ""),
        SelectableField::new(
            "status.nominatedNodeName",
            &["status", "nominatedNodeName"],
            "",
        ),
    ];

    const COLUMNS: &'static [Column] = table::COLUMNS;

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        pod_spec::apply_defaults(spec);
        pod_spec::default_requests(spec);
        let status = self.status.get_or_insert_default();
        // The single address and the list of addresses are two views of one thing.
        match (&status.pod_ip, &status.pod_ips) {
            (Some(ip), None) => status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]),
            (None, Some(ips)) => status.pod_ip = ips.first().map(|first| first.ip.clone()),
            _ => {}
        }
        let regular = status.container_statuses.iter_mut().flatten();
        let others = status.init_container_statuses.iter_mut().flatten();
        for container in regular
            .chain(others)
            .chain(status.ephemeral_container_statuses.iter_mut().flatten())
        {
            container.state.get_or_insert_default();
            container.last_state.get_or_insert_default();
        }
    }

    fn prepare_create(object: &mut Object) {
        let class = qos::class(object);
        let mut status = json!({"phase": "Pending", "qosClass": class});
        let gated = meta::at(object, &["spec", "schedulingGates"]).and_then(Value::as_array);
        if gated.is_some_and(|gates| !gates.is_empty()) {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastTransitionTime": meta::at(object, &["metadata", "creationTimestamp"]),
            }]);
        }
        object.insert("status".to_owned(), status);
        label_keys::merge(object);
    }

    fn prepare_update(new: &mut Object, old: &Object, part: Part, _now: Timestamp) {
        match part {
            Part::Status => status::keep(new, old),
            Part::EphemeralContainers => parts::keep_all_but_ephemeral(new, old),
            Part::Resize => parts::keep_all_but_resources(new, old),
            Part::Main | Part::Finalize | Part::Approval => {}
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_all(self, errors);
        pod_spec::warn_of_name(&self.metadata, "the Pod's hostname", errors);
        pod_spec::warn_of_annotations(&self.metadata, &Path::root("metadata"), errors);
        let path = Path::root("spec");
        let ephemeral = self
            .spec
            .as_ref()
            .and_then(|spec| spec.ephemeral_containers.as_ref());
        if ephemeral.is_some_and(|containers| !containers.is_empty()) {
            errors.push(FieldError::forbidden(
                &path.child("ephemeralContainers"),
                "cannot be set on create",
            ));
        }
        let spec = self.spec.as_ref();
        if spec.is_some_and(|spec| spec.node_name.is_some() && spec.scheduling_gates.is_some()) {
            const DETAIL: &str = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden(&path.child("nodeName"), DETAIL));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        update::validate(self, old, errors);
    }

    fn validate_status(&self, old: &Self, errors: &mut Errors) {
        metadata::validate_change(self, old, errors);
        status::validate(self, old, errors);
    }

    fn validate_part(&self, old: &Self, part: Part, errors: &mut Errors) {
        match part {
            Part::EphemeralContainers => parts::validate_ephemeral(self, old, errors),
            Part::Resize => parts::validate_resize(self, old, errors),
            Part::Main | Part::Status | Part::Finalize | Part::Approval => {}
        }
    }

    /// A pod that runs gets the time that it or the client asks for; one that runs nowhere, or no more, goes at once.
    fn grace_period(object: &Object, requested: Option<i64>) -> i64 {
        let text = |path: &[&str]| {
            meta::at(object, path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let ended = matches!(text(&["status", "phase"]), "Failed" | "Succeeded");
        if text(&["spec", "nodeName"]).is_empty() || ended {
            return 0;
        }
        let own =
            || meta::at(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
        let seconds = requested.or_else(own).unwrap_or(30);
        if seconds < 0 { 1 } else { seconds }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        table::row(self, now)
    }
}

/// What holds for a pod at all times.
fn validate_all(pod: &Pod, errors: &mut Errors) {
    metadata::validate(pod, errors);
    pod_spec::validate_pod(pod, &Path::root("spec"), errors);
}

#[cfg(test)]
mod tests;
