//! A pod's status, from what is known of it. Pure.
//!
//! The rules are those of upstream's kubelet: `getPhase` in `kubelet_pods.go`, and `status/generate.go` for conditions.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use vaquita_manifest::Role;

use super::board::{Facts, Record, State, Termination};

use crate::eviction::rank::EVICTED;

/// What a pod is as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether nothing runs, for good.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// What a status says; a phase that is unknown counts as pending.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
        {
            Some("Running") => Self::Running,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            _ => Self::Pending,
        }
    }
}

/// The phase that follows from the containers.
pub(crate) fn phase(facts: &Facts) -> Phase {
    if facts.verdict.is_some() {
        return Phase::Failed;
    }
    let mut initializing = false;
    for record in &facts.containers {
        match (record.role, &record.state) {
            (Role::Init, State::Terminated { end, .. }) if end.code == 0 => {}
            (Role::Init, State::Terminated { .. }) if !record.will_restart() => {
                return Phase::Failed;
            }
            (Role::Sidecar, State::Running { started: true, .. } | State::Terminated { .. })
            | (Role::Main | Role::Ephemeral, _) => {}
            (Role::Init | Role::Sidecar, _) => initializing = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for record in facts.of_role(Role::Main) {
        match &record.state {
            State::Running { .. } => running += 1,
            State::Terminated { end, .. } => {
                stopped += 1;
                succeeded += i32::from(end.code == 0);
            }
            State::Waiting { .. } if record.last.is_some() => stopped += 1,
            State::Waiting { .. } => waiting += 1,
        }
    }
    // No restart policy matters any more.
    if facts.is_stopped {
        return if stopped > 0 && succeeded == stopped && waiting == 0 {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
    }
    match () {
        () if initializing && running == 0 && succeeded == 0 && !has_run(facts) => Phase::Pending,
        () if waiting > 0 => Phase::Pending,
        () if running > 0 || facts.of_role(Role::Main).any(Record::will_restart) => Phase::Running,
        () if stopped == 0 => Phase::Pending,
        () if succeeded == stopped => Phase::Succeeded,
        () => Phase::Failed,
    }
}

/// Whether a main container has ever run: then the pod has been initialized, and initializing again (after the node
/// was started anew) does not take it back to Pending.
fn has_run(facts: &Facts) -> bool {
    facts
        .of_role(Role::Main)
        .any(|record| record.last.is_some())
}

/// What does not depend on the pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporter<'a> {
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) now: Timestamp,
}

/// The whole status. `previous` are the conditions as they were last reported: times of transition come from them, and
/// conditions that are others' business.
pub(crate) fn status(
    pod: &Pod,
    facts: &Facts,
    reporter: Reporter<'_>,
    previous: &[PodCondition],
) -> PodStatus {
    let phase = phase(facts);
    let ip = facts.ip.map(|ip| ip.to_string());
    let statuses = |roles: &[Role]| -> Vec<ContainerStatus> {
        facts
            .containers
            .iter()
            .filter(|record| roles.contains(&record.role))
            .map(container_status)
            .collect()
    };
    let init = statuses(&[Role::Init, Role::Sidecar]);
    let ephemeral = statuses(&[Role::Ephemeral]);
    let host_ips = reporter.host_ips.iter().map(ToString::to_string);
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason: facts
            .verdict
            .as_ref()
            .map(|verdict| verdict.reason.to_owned()),
        message: facts
            .verdict
            .as_ref()
            .map(|verdict| verdict.message.clone()),
        conditions: Some(conditions(pod, facts, phase, reporter.now, previous)),
        host_ip: host_ips.clone().next(),
        host_ips: Some(host_ips.map(|ip| HostIP { ip }).collect()),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: facts.start_time.map(Time),
        init_container_statuses: Some(init).filter(|all| !all.is_empty()),
        container_statuses: Some(statuses(&[Role::Main])),
        ephemeral_container_statuses: Some(ephemeral).filter(|all| !all.is_empty()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn container_status(record: &Record) -> ContainerStatus {
    let mut state = ContainerState::default();
    match &record.state {
        State::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some((*reason).to_owned()),
                message: message.clone(),
            });
        }
        State::Running { since, .. } => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
        }
        State::Terminated { end, .. } => state.terminated = Some(terminated(end)),
    }
    let none = ResourceRequirements::default();
    let ready = match (&record.state, record.role) {
        (State::Running { ready, .. }, _) => *ready,
        // An init container that has succeeded is ready, says upstream.
        (State::Terminated { end, .. }, Role::Init) => end.code == 0,
        _ => false,
    };
    ContainerStatus {
        name: record.name.clone(),
        state: Some(state),
        last_state: Some(ContainerState {
            terminated: record.last.as_ref().map(terminated),
            ..ContainerState::default()
        }),
        ready,
        started: Some(record.is_started()),
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        container_id: record.container_id.clone(),
        allocated_resources: record.allocated.requests.clone(),
        resources: Some(resources(record)).filter(|resources| *resources != none),
        ..ContainerStatus::default()
    }
}

/// What a container has, or will have when it runs.
fn resources(record: &Record) -> ResourceRequirements {
    match record.state {
        State::Running { .. } => record.actual.clone(),
        State::Waiting { .. } | State::Terminated { .. } => record.allocated.clone(),
    }
}

fn terminated(end: &Termination) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: end.container_id.clone(),
        exit_code: end.code,
        reason: Some(end.reason.clone()).filter(|reason| !reason.is_empty()),
        message: end.message.clone(),
        started_at: end.started_at.map(Time),
        finished_at: end.finished_at.map(Time),
        signal: None,
    }
}

/// Conditions that the node reports. Others may add theirs.
pub(crate) const OWN_CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A condition without its times.
struct Finding {
    type_: &'static str,
    because: Because,
}

fn conditions(
    pod: &Pod,
    facts: &Facts,
    phase: Phase,
    now: Timestamp,
    previous: &[PodCondition],
) -> Vec<PodCondition> {
    let containers = containers_ready(facts, phase);
    let findings = [
        Finding {
            type_: "PodReadyToStartContainers",
            because: sandbox(facts),
        },
        Finding {
            type_: "Initialized",
            because: initialized(facts, phase),
        },
        Finding {
            type_: "Ready",
            because: containers
                .clone()
                .and_then(|reason| gates(pod, previous).map(|()| reason)),
        },
        Finding {
            type_: "ContainersReady",
            because: containers,
        },
        Finding {
            type_: "PodScheduled",
            because: Ok(None),
        },
    ];
    let own = findings.iter().map(|finding| {
        let (status, reason, message) = match &finding.because {
            Ok(reason) => ("True", *reason, None),
            Err((reason, message)) => (
                "False",
                Some(*reason).filter(|reason| !reason.is_empty()),
                Some(message.clone()),
            ),
        };
        let unchanged = previous
            .iter()
            .find(|old| old.type_ == finding.type_ && old.status == status);
        PodCondition {
            type_: finding.type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message: message.filter(|message| !message.is_empty()),
            last_transition_time: unchanged
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(now))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        }
    });
    let own = own.chain(resizing(pod, facts, now, previous));
    let own: Vec<_> = own.chain(disruption(pod, facts, now, previous)).collect();
    let is_others = |old: &&PodCondition| {
        !OWN_CONDITIONS.contains(&old.type_.as_str())
            && own.iter().all(|new| new.type_ != old.type_)
    };
    let others: Vec<_> = previous.iter().filter(is_others).cloned().collect();
    others.into_iter().chain(own).collect()
}

/// That the node ended the pod for the good of others: who counts failures of the pod does not count this one.
fn disruption(
    pod: &Pod,
    facts: &Facts,
    now: Timestamp,
    previous: &[PodCondition],
) -> Option<PodCondition> {
    const TYPE: &str = "DisruptionTarget";
    let verdict = facts.verdict.as_ref();
    // One that never ran was refused, not ended.
    let verdict = verdict.filter(|verdict| verdict.reason == EVICTED && verdict.grace.is_some())?;
    let before = previous.iter().find(|old| old.type_ == TYPE);
    Some(PodCondition {
        type_: TYPE.to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(verdict.message.clone()),
        last_transition_time: before
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    })
}

/// The conditions of a change of resources that is not done yet: they are there only as long as it is not.
fn resizing(
    pod: &Pod,
    facts: &Facts,
    now: Timestamp,
    previous: &[PodCondition],
) -> Vec<PodCondition> {
    let mut found = Vec::new();
    if let Some(pending) = &facts.pending {
        let because = (Some(pending.reason), Some(pending.message.clone()));
        found.push(("PodResizePending", because));
    }
    let mut resizing = facts.containers.iter().filter(|one| one.is_resizing());
    if let Some(first) = resizing.next() {
        let mut errors = std::iter::once(first).chain(resizing);
        let error = errors.find_map(|record| record.resize_error.clone());
        found.push((
            "PodResizeInProgress",
            (error.as_ref().map(|_| "Error"), error),
        ));
    }
    let condition = |(type_, (reason, message)): (&str, (Option<&str>, Option<String>))| {
        let before = previous.iter().find(|old| old.type_ == type_);
        PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: before
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(now))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        }
    };
    found.into_iter().map(condition).collect()
}

/// The reason that goes with a condition that holds; reason and message of one that does not.
type Because = Result<Option<&'static str>, (&'static str, String)>;

fn sandbox(facts: &Facts) -> Because {
    // Upstream gives no reason.
    if facts.has_sandbox {
        Ok(None)
    } else {
        Err(("", String::new()))
    }
}

fn initialized(facts: &Facts, phase: Phase) -> Because {
    if phase == Phase::Succeeded {
        return Ok(Some("PodCompleted"));
    }
    let is_incomplete = |record: &&Record| match (record.role, &record.state) {
        (Role::Init, State::Terminated { end, .. }) => end.code != 0,
        (Role::Init, _) => true,
        (Role::Sidecar, _) => !record.is_started(),
        (Role::Main | Role::Ephemeral, _) => false,
    };
    let incomplete = names(facts.containers.iter().filter(is_incomplete));
    // What has begun has been initialized: a sidecar that starts again does not undo it.
    let has_begun = facts
        .of_role(Role::Main)
        .any(|record| !matches!(record.state, State::Waiting { .. }));
    if incomplete.is_empty() || has_begun {
        return Ok(None);
    }
    Err((
        "ContainersNotInitialized",
        format!("containers with incomplete status: [{incomplete}]"),
    ))
}

fn containers_ready(facts: &Facts, phase: Phase) -> Because {
    match phase {
        Phase::Succeeded => return Err(("PodCompleted", String::new())),
        Phase::Failed => return Err(("PodFailed", String::new())),
        Phase::Pending | Phase::Running => {}
    }
    let is_unready = |record: &&Record| {
        !matches!(record.role, Role::Init | Role::Ephemeral)
            && !matches!(record.state, State::Running { ready: true, .. })
    };
    let unready = names(facts.containers.iter().filter(is_unready));
    if unready.is_empty() {
        return Ok(None);
    }
    Err((
        "ContainersNotReady",
        format!("containers with unready status: [{unready}]"),
    ))
}

/// Whether the conditions that the manifest makes a part of readiness hold. They are others' business.
fn gates(pod: &Pod, previous: &[PodCondition]) -> Result<(), (&'static str, String)> {
    let gates = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten());
    let complaints: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match previous.iter().find(|condition| condition.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{name}\" does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if complaints.is_empty() {
        Ok(())
    } else {
        Err(("ReadinessGatesNotReady", complaints.join(", ")))
    }
}

fn names<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    records
        .map(|record| record.name.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests;
