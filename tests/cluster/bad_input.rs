//! Mistakes get a clear error where a Kubernetes user looks for it, and nothing else notices.

use std::fs;

use crate::harness::{Vaquita, eventually, guest_file, list};

/// A pod named `name` of one container with `image`.
fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    )
}

/// Waits until the container waits for `reason`, and returns the message.
fn wait_waiting(cluster: &Vaquita, name: &str, reason: &str) -> String {
    eventually(&format!("{name} waits with {reason}"), || {
        let pod = cluster.get(&["pod", name]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        if waiting["reason"] == reason {
            return Ok(waiting["message"].as_str().unwrap_or_default().to_owned());
        }
        Err(pod["status"].to_string())
    })
}

/// Waits for an Event about `name` with `reason`, and returns its message.
fn wait_event(cluster: &Vaquita, name: &str, reason: &str) -> String {
    eventually(&format!("an event {reason} about {name}"), || {
        let events = cluster.get(&[
            "events",
            "--field-selector",
            &format!("involvedObject.name={name}"),
        ]);
        list(&events["items"])
            .iter()
            .find(|event| event["reason"] == reason)
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| events["items"].to_string())
    })
}

#[test]
fn files_that_are_no_wasm_are_refused_when_loaded() {
    let cluster = Vaquita::up();
    let dir = tempfile::tempdir().expect("a directory");
    let text = dir.path().join("text.wasm");
    fs::write(&text, "this is no module").expect("writable");
    let refused = cluster.try_load(&text, "localhost/text:v1");
    assert!(!refused.status.success());
    assert!(
        refused.stderr.to_lowercase().contains("wasm"),
        "{}",
        refused.stderr
    );

    let missing = cluster.try_load(&dir.path().join("missing.wasm"), "localhost/missing:v1");
    assert!(!missing.status.success());
    assert!(
        missing.stderr.contains("missing.wasm"),
        "{}",
        missing.stderr
    );

    let unnamed = cluster.try_load(&guest_file("hello"), "Not A Name");
    assert!(!unnamed.status.success());
}

#[test]
fn a_truncated_module_says_so_in_the_pods_status() {
    let cluster = Vaquita::up();
    let whole = fs::read(guest_file("hello")).expect("the guest");
    let dir = tempfile::tempdir().expect("a directory");
    let half = dir.path().join("half.wasm");
    fs::write(&half, &whole[..whole.len() / 2]).expect("writable");
    let loaded = cluster.try_load(&half, "localhost/half:v1");
    if !loaded.status.success() {
        assert!(loaded.stderr.contains("half.wasm"), "{}", loaded.stderr);
        return;
    }
    cluster.apply(&pod("half", "localhost/half:v1"));
    let message = eventually("an error about the module", || {
        let pod = cluster.get(&["pod", "half"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        match waiting["message"].as_str() {
            Some(message) if !message.is_empty() => Ok(message.to_owned()),
            _ => Err(pod["status"].to_string()),
        }
    });
    assert!(
        message.contains("Wasm") || message.contains("module") || message.contains("component"),
        "{message}"
    );
}

#[test]
fn an_import_that_nothing_provides_is_named() {
    let cluster = Vaquita::up();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("wants.wasm");
    let module = wat::parse_str(
        r#"(module (import "made-up" "does-not-exist" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    )
    .expect("a module");
    fs::write(&file, module).expect("writable");
    cluster.load_file(&file, "localhost/wants:v1");
    cluster.apply(&pod("wants", "localhost/wants:v1"));
    let message = eventually("an error about the import", || {
        let pod = cluster.get(&["pod", "wants"]);
        let status = pod["status"]["containerStatuses"][0].to_string();
        status
            .contains("does-not-exist")
            .then_some(status.clone())
            .ok_or(status)
    });
    assert!(message.contains("made-up"), "{message}");
}

#[test]
fn a_module_that_traps_at_start_backs_off_and_the_others_do_not_notice() {
    let cluster = Vaquita::up();
    cluster.load_guest("trap-at-start", "localhost/trap:v1");
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&pod("trap", "localhost/trap:v1"));
    let message = wait_waiting(&cluster, "trap", "CrashLoopBackOff");
    assert!(message.contains("back-off"), "{message}");
    assert!(
        cluster
            .kubectl(&["get", "pod", "trap"])
            .contains("CrashLoopBackOff")
    );
    wait_event(&cluster, "trap", "BackOff");
    let state = cluster.get(&["pod", "trap"])["status"]["containerStatuses"][0].clone();
    assert!(state["restartCount"].as_u64() >= Some(1), "{state}");
    assert_ne!(state["lastState"]["terminated"]["exitCode"], 0, "{state}");

    cluster.apply(&crate::pods::web("hello", 1));
    cluster.wait_ready("app=hello", 1);
}

#[test]
fn an_endless_loop_disturbs_nobody_and_can_be_deleted() {
    let cluster = Vaquita::up();
    cluster.load_guest("spin", "localhost/spin:v1");
    cluster.load_guest("hello", "localhost/hello:v1");
    for index in 0..4 {
        cluster.apply(&pod(&format!("spin-{index}"), "localhost/spin:v1"));
    }
    cluster.apply(&crate::pods::web("hello", 1));
    let pods = cluster.wait_ready("app=hello", 1);
    crate::pods::wait_answered_by(cluster.node_port("hello"), &pods);
    cluster.kubectl(&["delete", "pods", "--all", "--grace-period=1"]);
}

#[test]
fn a_module_over_its_memory_limit_is_oom_killed() {
    let cluster = Vaquita::up();
    cluster.load_guest("hungry", "localhost/hungry:v1");
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: localhost/hungry:v1
    resources: {limits: {memory: 32Mi}}
",
    );
    let ended = eventually("the pod fails", || {
        let status = cluster.get(&["pod", "hungry"])["status"].clone();
        if status["phase"] == "Failed" {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    let state = &ended["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (state["reason"].as_str(), state["exitCode"].as_i64()),
        (Some("OOMKilled"), Some(137)),
        "{ended}"
    );
}

#[test]
fn an_image_that_is_not_there_backs_off_with_its_name() {
    let cluster = Vaquita::up();
    cluster.apply(&pod("absent", "localhost/absent:v1"));
    let message = wait_waiting(&cluster, "absent", "ImagePullBackOff");
    assert!(message.contains("localhost/absent:v1"), "{message}");
    assert!(wait_event(&cluster, "absent", "Failed").contains("absent"));

    cluster.apply(&pod("unnamed", "Not A Name"));
    wait_waiting(&cluster, "unnamed", "InvalidImageName");

    // What was missing appears: the pod starts by itself.
    cluster.load_guest("hello", "localhost/absent:v1");
    eventually("the pod runs", || {
        let phase = cluster.get(&["pod", "absent"])["status"]["phase"].to_string();
        (phase == "\"Running\"").then_some(()).ok_or(phase)
    });
}

#[test]
fn manifests_with_mistakes_are_refused_with_the_field() {
    let cluster = Vaquita::up();
    let rc = |selector: &str, replicas: &str, port: &str| {
        format!(
            "apiVersion: v1
kind: ReplicationController
metadata: {{name: wrong}}
spec:
  {replicas}
  selector: {{app: {selector}}}
  template:
    metadata: {{labels: {{app: wrong}}}}
    spec:
      containers:
      - {{name: c, image: 'localhost/hello:v1', ports: [{{containerPort: {port}}}]}}
"
        )
    };
    for (manifest, parts) in [
        (
            rc("wrong", "replica: 3", "8080"),
            ["BadRequest", "unknown field \"spec.replica\""],
        ),
        (
            rc("wrong", "replicas: 3", "80800"),
            [
                "spec.template.spec.containers[0].ports[0].containerPort",
                "must be between 1 and 65535",
            ],
        ),
        (
            rc("other", "replicas: 3", "8080"),
            [
                "spec.template.metadata.labels",
                "`selector` does not match template `labels`",
            ],
        ),
        (
            rc("wrong", "replicas: many", "8080"),
            ["BadRequest", "replicas"],
        ),
    ] {
        let refused = cluster.try_apply(&manifest);
        assert!(!refused.status.success(), "{manifest}");
        for part in parts {
            assert!(
                refused.stderr.contains(part),
                "no {part:?} in {}",
                refused.stderr
            );
        }
    }
    let everything = cluster.kubectl(&["get", "rc", "--ignore-not-found"]);
    assert!(
        everything.trim().is_empty(),
        "nothing was stored: {everything}"
    );
}
