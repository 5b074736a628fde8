//! A pod's row in `kubectl get`: above all the `STATUS` column, which is no field of the pod but a summary of many.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use serde_json::Value;

use super::super::pod_spec::is_sidecar;
use super::super::print;
use vaquita_api::registry::Kind;
use vaquita_api::table::{Column, age};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::string("Ready", "How many of the containers are ready."),
    Column::string("Status", "What the pod is doing, or what keeps it from it."),
    Column::string(
        "Restarts",
        "How often containers were restarted, and when last.",
    ),
    Column::AGE,
    Column::string("IP", "The pod's address.").wide(),
    Column::string("Node", "Where the pod runs.").wide(),
    Column::string(
        "Nominated Node",
        "Where the pod will run once others have made room.",
    )
    .wide(),
    Column::string(
        "Readiness Gates",
        "How many of the conditions that readiness waits for are met.",
    )
    .wide(),
];

pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = Summary::of(pod, spec, status);
    let restarts = match summary.restarts.last {
        Some(last) if summary.restarts.count != 0 => {
            format!("{} ({} ago)", summary.restarts.count, age(Some(last), now))
        }
        _ => summary.restarts.count.to_string(),
    };
    let ip = status
        .pod_ips
        .iter()
        .flatten()
        .next()
        .map(|ip| ip.ip.as_str());
    vec![
        pod.name_cell(),
        format!("{}/{}", summary.ready, summary.containers).into(),
        summary.reason.into(),
        restarts.into(),
        pod.age_cell(now),
        print::or_none(ip),
        print::or_none(spec.node_name.as_deref()),
        print::or_none(status.nominated_node_name.as_deref()),
        readiness_gates(spec, status),
    ]
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> Value {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return print::NONE.into();
    }
    let met = gates
        .iter()
        .filter(|gate| has_condition(status, &gate.condition_type))
        .count();
    format!("{met}/{}", gates.len()).into()
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// How often containers were restarted, and when the last of those that ended did so.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let ended = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        let ended = ended
            .and_then(|ended| ended.finished_at.as_ref())
            .map(|time| time.0);
        self.last = self.last.max(ended);
    }
}

struct Summary {
    reason: String,
    ready: usize,
    containers: usize,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let phase = status.phase.clone().unwrap_or_default();
        let mut summary = Self {
            reason: status
                .reason
                .clone()
                .filter(|reason| !reason.is_empty())
                .unwrap_or_else(|| phase.clone()),
            ready: 0,
            containers: spec.containers.len(),
            restarts: Restarts::default(),
        };
        let gated = |reason: &Option<String>| reason.as_deref() == Some("SchedulingGated");
        if status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "PodScheduled" && gated(&c.reason))
        {
            "SchedulingGated".clone_into(&mut summary.reason);
        }
        let (initializing, sidecars) = summary.initialization(spec, status);
        if !initializing || has_condition(status, "Initialized") {
            summary.restarts = sidecars;
            summary.running(status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                "Unknown".clone_into(&mut summary.reason);
            } else if !matches!(phase.as_str(), "Failed" | "Succeeded") {
                "Terminating".clone_into(&mut summary.reason);
            }
        }
        summary
    }

    /// Looks at the init containers. Says whether the pod is still held up by one, and how often sidecars were restarted.
    fn initialization(&mut self, spec: &PodSpec, status: &PodStatus) -> (bool, Restarts) {
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let sidecar_names = inits.iter().filter(|init| is_sidecar(init));
        let sidecar_names: HashSet<&str> = sidecar_names.map(|init| init.name.as_str()).collect();
        self.containers += sidecar_names.len();
        let mut sidecars = Restarts::default();
        for (at, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.add(container);
            let sidecar = sidecar_names.contains(container.name.as_str());
            if sidecar {
                sidecars.add(container);
            }
            let state = container.state.clone().unwrap_or_default();
            match &state {
                ContainerState {
                    terminated: Some(ended),
                    ..
                } if ended.exit_code == 0 => continue,
                _ if sidecar && container.started == Some(true) => {
                    self.ready += usize::from(container.ready);
                    continue;
                }
                ContainerState {
                    terminated: Some(ended),
                    ..
                } => {
                    self.reason = format!("Init:{}", ending(ended));
                }
                ContainerState {
                    waiting: Some(waiting),
                    ..
                } if waiting
                    .reason
                    .as_deref()
                    .is_some_and(|r| !r.is_empty() && r != "PodInitializing") =>
                {
                    self.reason = format!("Init:{}", waiting.reason.as_deref().unwrap_or_default());
                }
                _ => self.reason = format!("Init:{at}/{}", inits.len()),
            }
            return (true, sidecars);
        }
        (false, sidecars)
    }

    /// Looks at the regular containers, the first one's trouble counting most.
    fn running(&mut self, status: &PodStatus) {
        let mut has_running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state
                .waiting
                .and_then(|waiting| waiting.reason)
                .filter(|reason| !reason.is_empty());
            if let Some(reason) = waiting {
                self.reason = reason;
            } else if let Some(ended) = &state.terminated {
                self.reason = ending(ended);
            } else if container.ready && state.running.is_some() {
                has_running = true;
                self.ready += 1;
            }
        }
        // Some containers are done, others run on.
        if self.reason == "Completed" && has_running {
            let reason = if has_condition(status, "Ready") {
                "Running"
            } else {
                "NotReady"
            };
            reason.clone_into(&mut self.reason);
        }
    }
}

/// Why a container ended, in one word.
fn ending(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }
}
