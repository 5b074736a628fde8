use serde_json::{Value, json};

use super::*;

fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let containers = |names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| match name.strip_prefix('+') {
                Some(sidecar) => json!({"name": sidecar, "image": "i", "restartPolicy": "Always"}),
                None => json!({"name": name, "image": "i"}),
            })
            .collect()
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": {"restartPolicy": policy, "initContainers": containers(init), "containers": containers(main)},
    }))
    .unwrap()
}

fn waiting() -> State {
    State::Waiting {
        reason: "ContainerCreating",
        message: None,
    }
}

fn running(ready: bool) -> State {
    State::Running {
        since: at(5),
        started: true,
        ready,
    }
}

fn ended(code: i32) -> State {
    let end = termination(code);
    State::Terminated {
        end,
        for_good: true,
    }
}

fn termination(code: i32) -> Termination {
    Termination {
        code,
        reason: "Error".to_owned(),
        message: None,
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        container_id: Some("vaquita://x".to_owned()),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn facts(pod: &Pod, states: Vec<State>) -> Facts {
    let mut facts = Facts::new(pod);
    assert_eq!(facts.containers.len(), states.len());
    for (record, state) in facts.containers.iter_mut().zip(states) {
        record.state = state;
    }
    facts
}

fn phase_of(policy: &str, states: Vec<State>) -> Phase {
    let names = ["a", "b", "c"];
    let pod = pod(policy, &[], &names[..states.len()]);
    phase(&facts(&pod, states))
}

fn report(pod: &Pod, facts: &Facts, previous: &[PodCondition], second: i64) -> PodStatus {
    let host_ips = ["192.0.2.1".parse().unwrap()];
    status(
        pod,
        facts,
        Reporter {
            host_ips: &host_ips,
            now: at(second),
        },
        previous,
    )
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|one| one.type_ == type_)
        .unwrap()
}

#[test]
fn phases_follow_upstreams_table() {
    for (policy, states, expected) in [
        ("Always", vec![waiting()], Phase::Pending),
        (
            "Always",
            vec![running(false), running(true)],
            Phase::Running,
        ),
        ("Always", vec![running(true), waiting()], Phase::Pending),
        ("Always", vec![running(true), ended(1)], Phase::Running),
        ("Always", vec![ended(0), ended(0)], Phase::Running),
        ("OnFailure", vec![ended(0), ended(0)], Phase::Succeeded),
        ("OnFailure", vec![ended(1), ended(0)], Phase::Running),
        ("OnFailure", vec![running(true), ended(0)], Phase::Running),
        ("Never", vec![ended(0), ended(0)], Phase::Succeeded),
        ("Never", vec![ended(1), ended(0)], Phase::Failed),
        ("Never", vec![ended(1), running(true)], Phase::Running),
    ] {
        assert_eq!(
            phase_of(policy, states.clone()),
            expected,
            "{policy} {states:?}"
        );
    }
}

#[test]
fn a_container_in_back_off_does_not_take_the_pod_back_to_pending() {
    let pod = pod("Always", &[], &["a"]);
    let mut facts = facts(
        &pod,
        vec![State::Waiting {
            reason: "CrashLoopBackOff",
            message: None,
        }],
    );
    facts.containers[0].last = Some(termination(1));
    assert_eq!(phase(&facts), Phase::Running);
}

#[test]
fn init_containers_hold_the_pod_back_or_fail_it() {
    for (policy, states, expected) in [
        ("Always", vec![running(true), waiting()], Phase::Pending),
        ("Always", vec![ended(1), waiting()], Phase::Pending),
        ("Never", vec![ended(1), waiting()], Phase::Failed),
        ("Always", vec![ended(0), waiting()], Phase::Pending),
        ("Always", vec![ended(0), running(true)], Phase::Running),
    ] {
        let pod = pod(policy, &["i"], &["a"]);
        assert_eq!(phase(&facts(&pod, states)), expected);
    }
    let sidecar = pod("Never", &["+s"], &["a"]);
    let states = vec![running(true), ended(0)];
    assert_eq!(phase(&facts(&sidecar, states)), Phase::Succeeded);
}

#[test]
fn what_was_stopped_by_deletion_ends_whatever_the_policy() {
    let pod = pod("Always", &[], &["a", "b"]);
    let ends = |a, b| {
        let facts = Facts {
            is_stopped: true,
            ..facts(&pod, vec![a, b])
        };
        phase(&facts)
    };
    assert_eq!(ends(ended(0), ended(0)), Phase::Succeeded);
    assert_eq!(ends(ended(0), ended(143)), Phase::Failed);
    assert_eq!(ends(ended(0), waiting()), Phase::Failed);
}

#[test]
fn a_verdict_is_the_pods_reason() {
    let pod = pod("Always", &[], &["a"]);
    let mut facts = facts(&pod, vec![waiting()]);
    facts.verdict = Some(super::super::board::Verdict {
        reason: "OutOfpods",
        message: "full".to_owned(),
        grace: None,
    });
    let status = report(&pod, &facts, &[], 9);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("OutOfpods"))
    );
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("PodFailed")
    );
}

#[test]
fn conditions_name_what_is_missing_and_keep_their_times() {
    let pod = pod("Always", &["i"], &["a", "b"]);
    let first = report(
        &pod,
        &facts(&pod, vec![running(true), waiting(), waiting()]),
        &[],
        10,
    );
    let initialized = condition(&first, "Initialized");
    assert_eq!(
        initialized.message.as_deref(),
        Some("containers with incomplete status: [i]")
    );
    assert_eq!(
        condition(&first, "Ready").message.as_deref(),
        Some("containers with unready status: [a b]")
    );
    assert_eq!(condition(&first, "PodScheduled").status, "True");

    let conditions = first.conditions.unwrap();
    let second = report(
        &pod,
        &facts(&pod, vec![ended(0), running(true), running(false)]),
        &conditions,
        20,
    );
    assert_eq!(
        condition(&second, "Initialized").last_transition_time,
        Some(Time(at(20)))
    );
    let ready = condition(&second, "Ready");
    assert_eq!(
        ready.message.as_deref(),
        Some("containers with unready status: [b]")
    );
    assert_eq!(ready.last_transition_time, Some(Time(at(10))));
    assert_eq!(ready.observed_generation, Some(3));
}

#[test]
fn readiness_gates_are_others_conditions_and_part_of_ready() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate {
            condition_type: "lb".to_owned(),
        }]);
    let facts = facts(&pod, vec![running(true)]);
    let status = report(&pod, &facts, &[], 10);
    assert_eq!(condition(&status, "ContainersReady").status, "True");
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("ReadinessGatesNotReady")
    );
    let gate = PodCondition {
        type_: "lb".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    let status = report(&pod, &facts, &[gate], 20);
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(condition(&status, "lb").status, "True");
}

#[test]
fn container_statuses_say_what_upstream_says() {
    let pod = pod("Always", &[], &["a"]);
    let mut facts = facts(
        &pod,
        vec![State::Waiting {
            reason: "CrashLoopBackOff",
            message: Some("back-off".to_owned()),
        }],
    );
    facts.containers[0].last = Some(termination(134));
    facts.containers[0].restarts = 4;
    facts.ip = "10.244.0.2".parse().ok();
    let status = serde_json::to_value(report(&pod, &facts, &[], 10)).unwrap();
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"],
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}})
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 134);
    assert_eq!(
        container["lastState"]["terminated"]["finishedAt"],
        "1970-01-01T00:00:02Z"
    );
    assert_eq!(
        (&container["ready"], &container["restartCount"]),
        (&json!(false), &json!(4))
    );
    assert_eq!(
        (&status["podIP"], &status["podIPs"]),
        (&json!("10.244.0.2"), &json!([{"ip": "10.244.0.2"}]))
    );
    assert_eq!(
        (&status["hostIP"], &status["hostIPs"]),
        (&json!("192.0.2.1"), &json!([{"ip": "192.0.2.1"}]))
    );
    assert_eq!(status["observedGeneration"], 3);
}
