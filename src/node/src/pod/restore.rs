//! What the API server remembers of a pod that ran here before the node was started anew. Pure.
//!
//! What a Docker engine still has is taken over as it is. Nothing else runs any more, as after a machine was switched off
//! and on: what was running counts as ended in an unknown way, and what the restart policy would start again starts
//! again, counted as a restart.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use vaquita_backends::Survivor;
use vaquita_manifest::Role;

use super::board::{Facts, Record, State, Termination};

/// Upstream's words for an instance that is gone without a trace.
const LOST_REASON: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str = "The container could not be located when the node was started again.  \
                            The container used to be Running";
const LOST_CODE: i32 = 137;

/// The facts with which the pod's worker begins.
pub(super) fn facts(pod: &Pod, now: Timestamp, left: &[Survivor]) -> Facts {
    let mut facts = Facts::new(pod);
    let Some(status) = &pod.status else {
        return facts;
    };
    facts.start_time = status.start_time.as_ref().map(|time| time.0);
    facts.ip = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
    for record in &mut facts.containers {
        let statuses = match record.role {
            Role::Init | Role::Sidecar => &status.init_container_statuses,
            Role::Main => &status.container_statuses,
            Role::Ephemeral => &status.ephemeral_container_statuses,
        };
        let old = statuses
            .iter()
            .flatten()
            .find(|old| old.name == record.name);
        if let Some(old) = old {
            restore(record, old, now, left);
        }
    }
    facts
}

fn restore(record: &mut Record, old: &ContainerStatus, now: Timestamp, left: &[Survivor]) {
    record.restarts = u32::try_from(old.restart_count).unwrap_or(0);
    record.image_id.clone_from(&old.image_id);
    if let Some(resources) = &old.resources {
        record.allocated.clone_from(resources);
    }
    let state = old.state.clone().unwrap_or_default();
    let before = terminated(old.last_state.as_ref());
    let is_there = |left: &Survivor| left.name == record.name && left.attempt == record.restarts;
    if let Some(running) = &state.running
        && left.iter().any(is_there)
    {
        record.last = before;
        record.container_id.clone_from(&old.container_id);
        record.state = State::Running {
            since: running.started_at.as_ref().map_or(now, |time| time.0),
            started: old.started == Some(true),
            ready: old.ready,
        };
        return;
    }
    let end = if let Some(running) = state.running {
        Termination {
            code: LOST_CODE,
            reason: LOST_REASON.to_owned(),
            message: Some(LOST_MESSAGE.to_owned()),
            started_at: running.started_at.map(|time| time.0),
            finished_at: Some(now),
            container_id: old.container_id.clone(),
        }
    } else if let Some(end) = terminated(old.state.as_ref()) {
        end
    } else {
        record.last = before;
        return;
    };
    // Init containers run again in a new sandbox, even those that had succeeded.
    let counts = record.role == Role::Main || (record.role == Role::Init && !left.is_empty());
    let for_good = counts && !record.restarting.after(record.role, end.code);
    if for_good {
        record.container_id.clone_from(&end.container_id);
        record.last = before;
        record.state = State::Terminated { end, for_good };
    } else {
        record.last = Some(end);
    }
}

fn terminated(state: Option<&ContainerState>) -> Option<Termination> {
    let old: &ContainerStateTerminated = state?.terminated.as_ref()?;
    Some(Termination {
        code: old.exit_code,
        reason: old.reason.clone().unwrap_or_default(),
        message: old.message.clone(),
        started_at: old.started_at.as_ref().map(|time| time.0),
        finished_at: old.finished_at.as_ref().map(|time| time.0),
        container_id: old.container_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn restored(policy: &str, status: &Value) -> Facts {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
            "status": status,
        });
        facts(
            &serde_json::from_value(pod).unwrap(),
            Timestamp::from_second(100).unwrap(),
            &[],
        )
    }

    fn running() -> Value {
        json!({"phase": "Running", "podIP": "10.244.0.9", "startTime": "1970-01-01T00:00:10Z", "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 2, "containerID": "vaquita://1",
            "state": {"running": {"startedAt": "1970-01-01T00:00:20Z"}},
        }]})
    }

    #[test]
    fn what_ran_counts_as_lost_and_will_be_started_again() {
        for policy in ["Always", "OnFailure"] {
            let facts = restored(policy, &running());
            let record = &facts.containers[0];
            assert!(
                matches!(
                    record.state,
                    State::Waiting {
                        reason: "ContainerCreating",
                        ..
                    }
                ),
                "{record:?}"
            );
            let last = record.last.as_ref().unwrap();
            assert_eq!(
                (last.code, last.reason.as_str()),
                (137, "ContainerStatusUnknown")
            );
            assert_eq!(last.started_at.map(Timestamp::as_second), Some(20));
            assert_eq!(record.restarts, 2);
            assert_eq!(
                (facts.ip, facts.start_time.map(Timestamp::as_second)),
                ("10.244.0.9".parse().ok(), Some(10))
            );
        }
    }

    #[test]
    fn what_an_engine_still_has_runs_on() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "image": "i"}],
                "initContainers": [{"name": "first", "image": "i"}],
            },
            "status": {
                "initContainerStatuses": [{
                    "name": "first", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
                }],
                "containerStatuses": running()["containerStatuses"],
            },
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let now = Timestamp::from_second(100).unwrap();
        let left = |attempt| Survivor {
            name: "c".to_owned(),
            attempt,
        };
        let facts = super::facts(&pod, now, &[left(2)]);
        assert!(facts.containers[0].is_done());
        assert!(matches!(
            facts.containers[1].state,
            State::Running { ready: true, .. }
        ));
        assert_eq!(
            facts.containers[1].container_id.as_deref(),
            Some("vaquita://1")
        );
        // One of another attempt is not the one.
        let facts = super::facts(&pod, now, &[left(1)]);
        assert!(matches!(facts.containers[1].state, State::Waiting { .. }));
    }

    #[test]
    fn what_must_not_run_again_has_failed() {
        let facts = restored("Never", &running());
        assert!(facts.is_done());
        assert_eq!(facts.containers[0].latest_end().unwrap().code, 137);
    }

    #[test]
    fn what_had_succeeded_stays_so_unless_it_always_restarts() {
        let status = json!({"containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
        }]});
        assert!(restored("OnFailure", &status).is_done());
        assert!(restored("Never", &status).is_done());
        assert!(!restored("Always", &status).is_done());
    }

    #[test]
    fn a_pod_without_a_status_is_new() {
        let facts = restored("Always", &Value::Null);
        assert_eq!(
            (facts.containers[0].restarts, &facts.containers[0].last),
            (0, &None)
        );
    }
}
