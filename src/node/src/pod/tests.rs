//! Pods' lives, from their manifest to what the API server and the containers see of it.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use vaquita_backends::{Program, Runnable, StartError};

use super::*;
use crate::testing::{Bench, Order, container, pod};

/// Starts the pod's worker.
fn run(bench: &Bench) -> JoinHandle<()> {
    let worker = Worker::new(bench.context.clone(), bench.api.feed.subscribe(), None);
    tokio::spawn(worker.run())
}

fn phase(status: &Value) -> &str {
    status["phase"].as_str().unwrap_or_default()
}

fn waiting(status: &Value) -> &str {
    status["containerStatuses"][0]["state"]["waiting"]["reason"]
        .as_str()
        .unwrap_or_default()
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn has(events: &[(&str, String)], reason: &str, part: &str) -> bool {
    events
        .iter()
        .any(|(event, message)| *event == reason && message.contains(part))
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted_gracefully() {
    let mut bench = Bench::new(pod("Always", json!([container("a"), container("b")])));
    let worker = run(&bench);
    // In the manifest's order.
    let mut a = bench.started("a").await;
    let mut b = bench.started("b").await;
    let status = bench.api.wait("readiness", is_ready).await;
    assert_eq!(
        (phase(&status), &status["podIP"], &status["hostIP"]),
        ("Running", &json!("10.244.0.2"), &json!("192.0.2.1"))
    );
    let first = &status["containerStatuses"][0];
    assert_eq!(
        (&first["ready"], &first["restartCount"], &first["image"]),
        (&json!(true), &json!(0), &json!("i:v1"))
    );
    assert!(
        first["imageID"]
            .as_str()
            .unwrap()
            .starts_with("docker.io/library/i@sha256:"),
        "{first}"
    );
    assert_eq!(first["containerID"], "vaquita://uid.a.0");
    assert_eq!(
        bench.api.history.lock().unwrap().len(),
        1,
        "what lasts a moment is not written"
    );
    let events = bench.events();
    for (reason, message) in [
        (
            "Pulled",
            "Container image \"i:v1\" already present on machine",
        ),
        ("Created", "Created container: a"),
        ("Started", "Started container b"),
    ] {
        assert!(has(&events, reason, message), "{events:?}");
    }

    bench.api.delete(5);
    assert_eq!(a.order().await, Order::Terminate(Duration::from_secs(5)));
    assert_eq!(b.order().await, Order::Terminate(Duration::from_secs(5)));
    a.exit(0);
    bench
        .api
        .wait("the first end", |status| {
            status["containerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    assert!(
        bench.api.deletions.lock().unwrap().is_empty(),
        "not before all have ended"
    );
    b.exit(143);
    worker.await.unwrap();
    assert_eq!(
        *bench.api.deletions.lock().unwrap(),
        [json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "uid"}})]
    );
    let status = bench.api.status();
    assert_eq!((phase(&status), is_ready(&status)), ("Failed", false));
    assert_eq!(
        status["containerStatuses"][1]["state"]["terminated"]["exitCode"],
        143
    );
    assert!(has(&bench.events(), "Killing", "Stopping container a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_takes_no_connections_once_all_its_hooks_are_over() {
    let mut slow = container("a");
    slow["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
    let mut bench = Bench::new(pod("Always", json!([slow, container("b")])));
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    let mut b = bench.started("b").await;
    bench.api.wait("readiness", is_ready).await;
    bench.api.delete(30);
    assert!(matches!(b.order().await, Order::Terminate(_)));
    assert!(!*bench.backend.withdrawn.borrow(), "a still works");
    assert!(matches!(a.order().await, Order::Terminate(_)));
    let mut withdrawn = bench.backend.withdrawn.subscribe();
    withdrawn.wait_for(|is| *is).await.unwrap();
    a.exit(0);
    b.exit(0);
    worker.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_in_time_is_killed_and_the_grace_can_be_cut_short() {
    let mut bench = Bench::new(pod("Always", json!([container("a")])));
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    bench.api.delete(100);
    assert_eq!(a.order().await, Order::Terminate(Duration::from_secs(100)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.api.delete(20);
    assert_eq!(
        a.order().await,
        Order::Terminate(Duration::from_secs(10)),
        "twenty since the first order"
    );
    assert_eq!(a.order().await, Order::Kill);
    a.exit(137);
    worker.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_object_is_gone_is_ended_at_once() {
    let mut bench = Bench::new(pod("Always", json!([container("a")])));
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    bench.api.feed.send_modify(|feed| feed.is_gone = true);
    assert_eq!(a.order().await, Order::Terminate(Duration::ZERO));
    a.exit(137);
    worker.await.unwrap();
    assert!(bench.api.deletions.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_crashes_starts_again_at_once_and_then_after_waits() {
    let mut bench = Bench::new(pod("Always", json!([container("a")])));
    let worker = run(&bench);
    for (restarts, seconds) in [(0, 0), (1, 0), (2, 10), (3, 20)] {
        let before = tokio::time::Instant::now();
        let a = bench.started("a").await;
        assert_eq!(before.elapsed().as_secs(), seconds, "restart {restarts}");
        let status = bench
            .api
            .wait("running", |status| {
                phase(status) == "Running" && is_ready(status)
            })
            .await;
        assert_eq!(status["containerStatuses"][0]["restartCount"], restarts);
        a.exit(1);
        bench
            .api
            .wait("the end", |status| {
                !is_ready(status) || status["containerStatuses"][0]["restartCount"] != restarts
            })
            .await;
    }
    let status = bench
        .api
        .wait("back-off", |status| waiting(status) == "CrashLoopBackOff")
        .await;
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"]["waiting"]["message"],
        "back-off 40s restarting failed container=a pod=p_ns(uid)"
    );
    assert_eq!(
        (
            &container["lastState"]["terminated"]["exitCode"],
            phase(&status)
        ),
        (&json!(1), "Running")
    );
    assert!(has(
        &bench.events(),
        "BackOff",
        "Back-off restarting failed container a in pod p_ns(uid)"
    ));
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn restart_policies_decide_how_a_pod_ends() {
    for (policy, codes, expected) in [
        ("Never", &[0][..], "Succeeded"),
        ("Never", &[3], "Failed"),
        ("OnFailure", &[3, 0], "Succeeded"),
    ] {
        let mut bench = Bench::new(pod(policy, json!([container("a")])));
        let worker = run(&bench);
        for code in codes {
            bench.started("a").await.exit(*code);
        }
        let status = bench
            .api
            .wait(expected, |status| phase(status) == expected)
            .await;
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        let reason = if expected == "Succeeded" {
            "Completed"
        } else {
            "Error"
        };
        assert_eq!(
            (&end["exitCode"], &end["reason"]),
            (&json!(codes.last()), &json!(reason))
        );
        assert!(!worker.is_finished(), "the object is still there");
        bench.api.delete(30);
        worker.await.unwrap();
        assert_eq!(bench.api.deletions.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_until_they_succeed() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["initContainers"] = json!([container("i1"), container("i2")]);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    let i1 = bench.started("i1").await;
    let status = bench
        .api
        .wait("the first one", |status| {
            status["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(
        (phase(&status), waiting(&status)),
        ("Pending", "PodInitializing")
    );
    i1.exit(1);
    bench.started("i1").await.exit(0);
    bench.started("i2").await.exit(0);
    bench.started("a").await;
    let status = bench.api.wait("readiness", is_ready).await;
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1);
    assert_eq!(phase(&status), "Running");
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_must_not_run_again_fails_the_pod() {
    let mut manifest = pod("Never", json!([container("a")]));
    manifest["spec"]["initContainers"] = json!([container("i1")]);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    bench.started("i1").await.exit(2);
    let status = bench
        .api
        .wait("failure", |status| phase(status) == "Failed")
        .await;
    assert_eq!(waiting(&status), "PodInitializing");
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn sidecars_start_first_and_end_last() {
    let mut manifest = pod("Never", json!([container("a")]));
    let mut sidecar = container("s");
    sidecar["restartPolicy"] = json!("Always");
    manifest["spec"]["initContainers"] = json!([sidecar]);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    let first = bench.started("s").await;
    let a = bench.started("a").await;
    first.exit(1);
    let mut sidecar = bench.started("s").await;
    bench.api.wait("readiness", is_ready).await;
    a.exit(0);
    assert!(matches!(sidecar.order().await, Order::Terminate(_)));
    sidecar.exit(143);
    bench
        .api
        .wait("success", |status| phase(status) == "Succeeded")
        .await;
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_waited_for_and_used_as_soon_as_it_appears() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["containers"][0]["image"] = json!("localhost/late:v1");
    let mut bench = Bench::new(manifest);
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(bench.context.images.clone().watch(stop.clone()));
    let worker = run(&bench);
    bench
        .api
        .wait("the error", |status| waiting(status) == "ErrImagePull")
        .await;
    let status = bench
        .api
        .wait("back-off", |status| waiting(status) == "ImagePullBackOff")
        .await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.starts_with("Back-off pulling image \"localhost/late:v1\": ErrImagePull: "),
        "{message}"
    );
    assert_eq!(phase(&status), "Pending");
    let events = bench.events();
    for (reason, part) in [
        ("Pulling", "localhost/late:v1"),
        ("Failed", "Failed to pull image \"localhost/late:v1\": "),
        ("Failed", "Error: ErrImagePull"),
        ("BackOff", "Back-off pulling image"),
        ("Failed", "Error: ImagePullBackOff"),
    ] {
        assert!(has(&events, reason, part), "{reason} {part}: {events:?}");
    }
    // Far into the back-off, which is not sat out.
    tokio::time::sleep(Duration::from_secs(400)).await;
    let before = tokio::time::Instant::now();
    bench
        .images
        .load("localhost/late:v1", &wat::parse_str("(module)").unwrap())
        .unwrap();
    bench.started("a").await;
    assert!(before.elapsed() < Duration::from_secs(5));
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn image_problems_have_reasons_of_their_own() {
    for (image, policy, reason, event) in [
        (
            "Not A Name",
            "IfNotPresent",
            "InvalidImageName",
            "InspectFailed",
        ),
        (
            "absent:v1",
            "Never",
            "ErrImageNeverPull",
            "ErrImageNeverPull",
        ),
    ] {
        let mut manifest = pod("Always", json!([container("a")]));
        manifest["spec"]["containers"][0]["image"] = json!(image);
        manifest["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        let mut bench = Bench::new(manifest);
        let worker = run(&bench);
        let status = bench
            .api
            .wait(reason, |status| waiting(status) == reason)
            .await;
        assert!(
            status["containerStatuses"][0]["state"]["waiting"]["message"]
                .to_string()
                .contains(image)
        );
        assert!(has(&bench.events(), event, image));
        // The manifest is mended.
        bench
            .api
            .change(|pod| pod["spec"]["containers"][0]["image"] = json!("i:v1"));
        bench.started("a").await;
        worker.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_is_named_and_used_when_it_comes() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["containers"][0]["env"] = json!([{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}]);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    let status = bench
        .api
        .wait("the error", |status| {
            waiting(status) == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"settings\" not found"
    );
    assert!(has(
        &bench.events(),
        "Failed",
        "Error: configmap \"settings\" not found"
    ));
    bench.api.add_config_map(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "blue"},
    }));
    let a = bench.started("a").await;
    assert_eq!(a.config.env, [("COLOUR".to_owned(), "blue".to_owned())]);
    assert_eq!(a.config.args, ["a"]);
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_module_that_cannot_start_says_why_and_is_tried_again() {
    let mut bench = Bench::new(pod("Always", json!([container("a")])));
    bench
        .backend
        .failures
        .lock()
        .unwrap()
        .push(StartError::Create("unknown import made-up".to_owned()));
    let worker = run(&bench);
    let status = bench
        .api
        .wait("the error", |status| {
            waiting(status) == "CreateContainerError"
        })
        .await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "unknown import made-up"
    );
    assert!(has(
        &bench.events(),
        "Failed",
        "Error: unknown import made-up"
    ));
    let a = bench.started("a").await;
    let status = bench.api.wait("running", is_ready).await;
    assert_eq!(
        status["containerStatuses"][0]["restartCount"], 0,
        "it never ran before"
    );
    drop(a);
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn what_a_node_cannot_give_is_said() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/data", "mountPropagation": "Bidirectional"}]);
    let bench = Bench::new(manifest);
    let worker = run(&bench);
    let status = bench
        .api
        .wait("the error", |status| {
            waiting(status) == "CreateContainerConfigError"
        })
        .await;
    assert!(
        status["containerStatuses"][0]["state"]["waiting"]["message"]
            .to_string()
            .contains("volumeMounts")
    );
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn hooks_come_before_readiness_and_out_of_the_grace() {
    let mut hooked = container("a");
    hooked["lifecycle"] =
        json!({"postStart": {"sleep": {"seconds": 3}}, "preStop": {"sleep": {"seconds": 5}}});
    let mut bench = Bench::new(pod("Always", json!([hooked])));
    let worker = run(&bench);
    let begin = tokio::time::Instant::now();
    let mut a = bench.started("a").await;
    bench.api.wait("readiness", is_ready).await;
    assert!(begin.elapsed() >= Duration::from_secs(3));

    let begin = tokio::time::Instant::now();
    bench.api.delete(30);
    let order = a.order().await;
    assert!(begin.elapsed() >= Duration::from_secs(5));
    let Order::Terminate(left) = order else {
        panic!("{order:?}")
    };
    assert!(
        left > Duration::from_secs(24) && left <= Duration::from_secs(25),
        "{left:?}"
    );
    a.exit(0);
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_ends_the_container() {
    let mut hooked = container("a");
    // There is no toolbox that would have it.
    hooked["lifecycle"] = json!({"postStart": {"exec": {"command": ["absent"]}}});
    let mut bench = Bench::new(pod("Never", json!([hooked])));
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    assert!(matches!(a.order().await, Order::Terminate(_)));
    let events = bench.events();
    assert!(
        has(&events, "FailedPostStartHook", "PostStartHook failed"),
        "{events:?}"
    );
    a.exit(1);
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_comes_later_and_counts_for_nothing() {
    let mut bench = Bench::new(pod("Never", json!([container("a")])));
    let worker = run(&bench);
    let a = bench.started("a").await;
    bench
        .api
        .change(|pod| pod["spec"]["ephemeralContainers"] = json!([container("look")]));
    bench.started("look").await.exit(3);
    let status = bench
        .api
        .wait("its end", |status| {
            status["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
        })
        .await;
    assert_eq!(phase(&status), "Running");
    a.exit(0);
    bench
        .api
        .wait("success", |status| phase(status) == "Succeeded")
        .await;
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_container_waits_for_its_volumes_and_mounts_them() {
    let mut manifest = pod("Never", json!([container("a")]));
    manifest["spec"]["volumes"] =
        json!([{"name": "config", "configMap": {"name": "c"}}, {"name": "data", "emptyDir": {}}]);
    manifest["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/etc/config"},
        {"name": "data", "mountPath": "/data", "subPathExpr": "$(WHO)/x", "readOnly": false},
    ]);
    manifest["spec"]["containers"][0]["env"] = json!([{"name": "WHO", "value": "me"}]);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let events = bench.events();
    let missing = "MountVolume.SetUp failed for volume \"config\" : configmap \"c\" not found";
    assert!(has(&events, "FailedMount", missing), "{events:?}");
    assert!(bench.backend.sandboxes.lock().unwrap().is_empty());

    bench.api.add_config_map(
        json!({"metadata": {"name": "c", "namespace": "ns"}, "data": {"key": "value"}}),
    );
    let a = bench.started("a").await;
    let mounts: Vec<_> = a.config.mounts.iter().collect();
    assert_eq!(mounts[0].guest, "/etc/config");
    assert!(mounts[0].read_only && mounts[0].sub_path.is_empty());
    assert_eq!(
        (mounts[1].guest.as_str(), mounts[1].sub_path.as_str()),
        ("/data", "me/x")
    );
    assert!(!mounts[1].read_only);
    let dir = bench.context.volumes.of("uid");
    let config = dir
        .path()
        .join("volumes/kubernetes.io~configmap/config/key");
    assert_eq!(std::fs::read_to_string(config).unwrap(), "value");
    assert!(
        dir.path()
            .join("volumes/kubernetes.io~empty-dir/data/me/x")
            .is_dir()
    );

    a.exit(0);
    bench
        .api
        .wait("the end", |status| status["phase"] == "Succeeded")
        .await;
    while dir.path().exists() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn what_ran_before_the_node_started_runs_again_at_its_address() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["status"] = json!({
        "phase": "Running", "podIP": "10.244.7.7", "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{"name": "a", "image": "i:v1", "imageID": "", "ready": true, "restartCount": 4,
                               "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    });
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    bench.started("a").await;
    let again = |status: &Value| status["containerStatuses"][0]["restartCount"] == 5;
    let status = bench.api.wait("the restart", again).await;
    assert_eq!(
        (&status["podIP"], &status["startTime"]),
        (&json!("10.244.7.7"), &json!("2026-01-01T00:00:00Z"))
    );
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["reason"],
        "ContainerStatusUnknown"
    );
    assert_eq!(
        bench.backend.sandboxes.lock().unwrap()[0].wanted_ip,
        "10.244.7.7".parse().ok()
    );
    let phases: Vec<String> = bench
        .api
        .history
        .lock()
        .unwrap()
        .iter()
        .map(|one| phase(one).to_owned())
        .collect();
    assert!(
        phases.iter().all(|phase| phase == "Running"),
        "it never goes back: {phases:?}"
    );
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_before_is_left_alone_until_it_is_deleted() {
    let mut manifest = pod("Never", json!([container("a")]));
    manifest["status"] = json!({
        "phase": "Succeeded",
        "containerStatuses": [{"name": "a", "image": "i:v1", "imageID": "", "ready": false, "restartCount": 0,
                               "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
    });
    let bench = Bench::new(manifest);
    let worker = run(&bench);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(
        bench.api.history.lock().unwrap().is_empty()
            && bench.backend.sandboxes.lock().unwrap().is_empty()
    );
    bench.api.delete(30);
    worker.await.unwrap();
    assert_eq!(bench.api.deletions.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn probes_make_ready_and_restart() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["containers"][0]["readinessProbe"] =
        json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    manifest["spec"]["containers"][0]["livenessProbe"] =
        json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 30, "periodSeconds": 1});
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    let status = bench
        .api
        .wait("running", |status| phase(status) == "Running")
        .await;
    assert!(!is_ready(&status));
    *bench.backend.listens.lock().unwrap() = true;
    bench.api.wait("readiness", is_ready).await;
    *bench.backend.listens.lock().unwrap() = false;
    bench
        .api
        .wait("unreadiness", |status| !is_ready(status))
        .await;
    assert_eq!(a.order().await, Order::Terminate(Duration::from_secs(30)));
    a.exit(143);
    bench.started("a").await;
    let events = bench.events();
    for (reason, part) in [
        (
            "Unhealthy",
            "Readiness probe failed: dial tcp 10.244.0.2:80",
        ),
        ("Unhealthy", "Liveness probe failed: "),
        (
            "Killing",
            "Container a failed liveness probe, will be restarted",
        ),
    ] {
        assert!(has(&events, reason, part), "{reason} {part}: {events:?}");
    }
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_be_active_only_so_long() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["spec"]["activeDeadlineSeconds"] = json!(60);
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    assert_eq!(a.order().await, Order::Terminate(Duration::from_secs(30)));
    a.exit(143);
    let status = bench
        .api
        .wait("failure", |status| {
            phase(status) == "Failed"
                && status["containerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_new_image_replaces_the_instance() {
    let mut bench = Bench::new(pod("Always", json!([container("a")])));
    bench
        .images
        .load("i:v2", &wat::parse_str("(module (memory 1))").unwrap())
        .unwrap();
    let worker = run(&bench);
    let mut a = bench.started("a").await;
    bench.api.wait("readiness", is_ready).await;
    bench
        .api
        .change(|pod| pod["spec"]["containers"][0]["image"] = json!("i:v2"));
    assert!(matches!(a.order().await, Order::Terminate(_)));
    a.exit(143);
    let second = bench.started("a").await;
    assert!(
        matches!(&second.config.program, Program::Image(Runnable::Stored(image)) if image.reference == "docker.io/library/i:v2")
    );
    let status = bench
        .api
        .wait("the new one", |status| {
            status["containerStatuses"][0]["image"] == "i:v2"
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert!(has(
        &bench.events(),
        "Killing",
        "definition changed, will be restarted"
    ));
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_stay() {
    let mut manifest = pod("Always", json!([container("a")]));
    manifest["status"] = json!({"conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "example.com/gate", "status": "True"},
    ]});
    let mut bench = Bench::new(manifest);
    let worker = run(&bench);
    bench.started("a").await;
    let status = bench.api.wait("readiness", is_ready).await;
    let conditions = status["conditions"].as_array().unwrap();
    let find = |type_: &str| conditions.iter().find(|one| one["type"] == type_).unwrap();
    assert_eq!(find("example.com/gate")["status"], "True");
    assert_eq!(
        find("PodScheduled")["lastTransitionTime"],
        "2026-01-01T00:00:00Z"
    );
    worker.abort();
}

#[test]
fn the_grace_is_what_the_deletion_grants_or_the_manifest_says() {
    let feed = |pod: Value, is_gone| Feed {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        is_gone,
    };
    let mut manifest = pod("Always", json!([container("a")]));
    assert_eq!(feed(manifest.clone(), false).grace(), None);
    assert_eq!(feed(manifest.clone(), true).grace(), Some(Duration::ZERO));
    manifest["spec"]["terminationGracePeriodSeconds"] = json!(7);
    manifest["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(
        feed(manifest.clone(), false).grace(),
        Some(Duration::from_secs(7))
    );
    manifest["metadata"]["deletionGracePeriodSeconds"] = json!(3);
    assert_eq!(feed(manifest, false).grace(), Some(Duration::from_secs(3)));
}
