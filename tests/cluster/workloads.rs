//! Workloads as people run them: rolled out, scaled, changed, undone, paused, run to their end and deleted by stock
//! `kubectl`.

use std::{fs, process::Command, thread, time::Duration};

use crate::harness::{Vaquita, eventually, list, run};

/// A deployment of `replicas` pods of one HTTP component.
fn web(replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {{kubernetes.io/change-cause: the first}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: localhost/hello:v1
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A cluster with the deployment, rolled out, and images to change to: one that works and one that never does.
fn rolled_out(replicas: usize) -> Vaquita {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.load_guest("hello", "localhost/hello:v2");
    cluster.load_guest("trap-at-start", "localhost/trap:v1");
    cluster.apply(&web(replicas));
    wait_rolled_out(&cluster);
    cluster
}

fn wait_rolled_out(cluster: &Vaquita) {
    let said = cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(
        said.contains("deployment \"web\" successfully rolled out"),
        "{said}"
    );
}

/// Waits until there are so many pods, all of one image.
fn wait_images(cluster: &Vaquita, image: &str, count: usize) {
    eventually(&format!("{count} pods of {image} and no other"), || {
        let pods = list(&cluster.get(&["pods", "-l", "app=web"])["items"]);
        let images: Vec<_> = pods
            .iter()
            .map(|pod| pod["spec"]["containers"][0]["image"].clone())
            .collect();
        (images.len() == count && images.iter().all(|known| known == image))
            .then_some(())
            .ok_or_else(|| format!("{images:?}"))
    });
}

#[test]
fn a_deployment_is_rolled_out_scaled_changed_and_undone() {
    let cluster = rolled_out(3);
    wait_images(&cluster, "localhost/hello:v1", 3);
    let table = cluster.kubectl(&["get", "deployment", "web"]);
    assert!(table.contains("3/3"), "{table}");

    cluster.kubectl(&["scale", "deployment", "web", "--replicas=5"]);
    wait_rolled_out(&cluster);
    assert_eq!(cluster.ready_pods("app=web").len(), 5);
    cluster.kubectl(&["scale", "deployment", "web", "--replicas=2"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v1", 2);

    cluster.kubectl(&["set", "image", "deployment/web", "web=localhost/hello:v2"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v2", 2);
    let sets = list(&cluster.get(&["replicasets", "-l", "app=web"])["items"]);
    let mut sizes: Vec<_> = sets
        .iter()
        .map(|set| set["spec"]["replicas"].clone())
        .collect();
    sizes.sort_by_key(serde_json::Value::as_i64);
    assert_eq!(sizes, [0, 2]);

    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(
        history.contains("1 ") && history.contains("2 "),
        "{history}"
    );
    let first = cluster.kubectl(&["rollout", "history", "deployment/web", "--revision=1"]);
    assert!(first.contains("localhost/hello:v1"), "{first}");

    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v1", 2);
    let sets = list(&cluster.get(&["replicasets", "-l", "app=web"])["items"]);
    assert_eq!(sets.len(), 2, "undoing takes the old set again");
    let deployment = cluster.get(&["deployment", "web"]);
    assert_eq!(
        deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
    let described = cluster.kubectl(&["describe", "deployment", "web"]);
    for part in [
        "ScalingReplicaSet",
        "NewReplicaSetAvailable",
        "MinimumReplicasAvailable",
        "OldReplicaSets:",
    ] {
        assert!(described.contains(part), "no {part} in\n{described}");
    }
}

#[test]
fn a_broken_image_stops_the_rollout_and_what_worked_goes_on() {
    let cluster = rolled_out(3);
    cluster.kubectl(&["set", "image", "deployment/web", "web=localhost/trap:v1"]);
    eventually("one pod of the broken image", || {
        let deployment = cluster.get(&["deployment", "web"]);
        (deployment["status"]["updatedReplicas"] == 1)
            .then_some(())
            .ok_or_else(|| deployment["status"].to_string())
    });
    assert_eq!(cluster.ready_pods("app=web").len(), 3);
    let waiting = cluster.try_kubectl(&["rollout", "status", "deployment/web", "--timeout=1s"]);
    assert!(!waiting.status.success(), "{}", waiting.stdout);

    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v1", 3);
}

#[test]
fn a_pause_gathers_changes_and_a_restart_makes_new_pods() {
    let cluster = rolled_out(2);
    let first = cluster.wait_ready("app=web", 2);
    cluster.kubectl(&["rollout", "pause", "deployment/web"]);
    cluster.kubectl(&["set", "image", "deployment/web", "web=localhost/hello:v2"]);
    cluster.kubectl(&["set", "env", "deployment/web", "MOOD=calm"]);
    eventually("the pause is noticed", || {
        let deployment = cluster.get(&["deployment", "web"]);
        (deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"])
            .then_some(())
            .ok_or_else(|| deployment["status"].to_string())
    });
    assert_eq!(cluster.wait_ready("app=web", 2), first);
    cluster.kubectl(&["rollout", "resume", "deployment/web"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v2", 2);
    let sets = list(&cluster.get(&["replicasets", "-l", "app=web"])["items"]);
    assert_eq!(sets.len(), 2, "both changes are one rollout");

    let second = cluster.wait_ready("app=web", 2);
    cluster.kubectl(&["rollout", "restart", "deployment/web"]);
    wait_rolled_out(&cluster);
    wait_images(&cluster, "localhost/hello:v2", 2);
    let third = cluster.wait_ready("app=web", 2);
    assert!(third.iter().all(|pod| !second.contains(pod)), "{third:?}");
}

#[test]
fn deleting_a_deployment_takes_all_with_it_unless_told_to_leave_it() {
    let cluster = rolled_out(2);
    cluster.kubectl(&["delete", "deployment", "web", "--cascade=orphan"]);
    assert_eq!(cluster.ready_pods("app=web").len(), 2);
    // A new deployment of the same template adopts what it finds.
    let before = cluster.wait_ready("app=web", 2);
    cluster.apply(&web(2));
    wait_rolled_out(&cluster);
    assert_eq!(cluster.wait_ready("app=web", 2), before);

    cluster.kubectl(&["delete", "deployment", "web"]);
    eventually("nothing is left", || {
        let left = cluster.kubectl(&["get", "replicasets,pods", "-l", "app=web", "-o", "name"]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn a_job_runs_its_indexes_to_the_end_and_another_gives_up() {
    let cluster = Vaquita::up();
    cluster.load_guest("core-command", "localhost/command:v1");
    cluster.load_guest("trap-at-start", "localhost/trap:v1");
    cluster.apply(
        "apiVersion: batch/v1
kind: Job
metadata: {name: each}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/command:v1}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/trap:v1}]
",
    );
    cluster.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/each",
        "--timeout=60s",
    ]);
    let each = cluster.get(&["job", "each"]);
    assert_eq!(each["status"]["completedIndexes"], "0-2");
    assert_eq!(each["status"]["succeeded"], 3);
    let said = cluster.kubectl(&["logs", "-l", "job-name=each", "--tail=-1"]);
    for index in 0..3 {
        let line = format!("environment JOB_COMPLETION_INDEX={index}");
        assert!(said.contains(&line), "no {line} in\n{said}");
    }
    cluster.kubectl(&[
        "wait",
        "--for=condition=failed",
        "job/hopeless",
        "--timeout=60s",
    ]);
    let described = cluster.kubectl(&["describe", "job", "hopeless"]);
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    cluster.kubectl(&["delete", "jobs", "--all"]);
    eventually("nothing is left", || {
        let left = cluster.kubectl(&["get", "jobs,pods", "-o", "name"]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn a_jobs_policies_decide_by_exit_codes_and_indexes() {
    let cluster = Vaquita::up();
    cluster.load_guest("exit-code", "localhost/exit:v1");
    cluster.apply(
        "apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 6
  podFailurePolicy:
    rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [42]}
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/exit:v1, args: ['42']}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: one-is-enough}
spec:
  completions: 3
  parallelism: 1
  completionMode: Indexed
  successPolicy:
    rules: [{succeededCount: 1}]
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/exit:v1}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: each-for-itself}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/exit:v1, args: ['7']}]
",
    );
    let wait = |condition: &str, job: &str| {
        let condition = format!("--for=condition={condition}");
        cluster.kubectl(&["wait", &condition, &format!("job/{job}"), "--timeout=60s"]);
        cluster.get(&["job", job])["status"].clone()
    };
    let reason = |status: &serde_json::Value| {
        let last = list(&status["conditions"]).pop();
        last.map(|condition| condition["reason"].clone())
    };
    let status = wait("failed", "hopeless");
    assert_eq!(
        (&status["failed"], reason(&status)),
        (&1.into(), Some("PodFailurePolicy".into()))
    );
    let status = wait("complete", "one-is-enough");
    assert_eq!(
        (&status["completedIndexes"], reason(&status)),
        (&"0".into(), Some("SuccessPolicy".into()))
    );
    let status = wait("failed", "each-for-itself");
    assert_eq!(
        (&status["failedIndexes"], reason(&status)),
        (&"0,1".into(), Some("FailedIndexes".into()))
    );
}

#[test]
fn a_daemon_set_has_a_pod_on_the_node_and_replaces_it() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.load_guest("hello", "localhost/hello:v2");
    let daemons = web(1)
        .replace("kind: Deployment", "kind: DaemonSet")
        .replace("  replicas: 1\n", "");
    cluster.apply(&daemons);
    let rolled_out = || {
        let said = cluster.kubectl(&["rollout", "status", "daemonset/web", "--timeout=60s"]);
        assert!(said.contains("successfully rolled out"), "{said}");
    };
    rolled_out();
    let first = cluster.wait_ready("app=web", 1);
    cluster.kubectl(&["set", "image", "daemonset/web", "web=localhost/hello:v2"]);
    rolled_out();
    wait_images(&cluster, "localhost/hello:v2", 1);
    assert_ne!(cluster.wait_ready("app=web", 1), first);

    let history = cluster.kubectl(&["rollout", "history", "daemonset/web"]);
    assert!(
        history.contains("\n1 ") && history.contains("\n2 "),
        "{history}"
    );
    let shown = cluster.kubectl(&["rollout", "history", "daemonset/web", "--revision=1"]);
    assert!(shown.contains("localhost/hello:v1"), "{shown}");
    cluster.kubectl(&["rollout", "undo", "daemonset/web"]);
    rolled_out();
    wait_images(&cluster, "localhost/hello:v1", 1);
    let history = cluster.kubectl(&["rollout", "history", "daemonset/web"]);
    assert!(
        !history.contains("\n1 ") && history.contains("\n3 "),
        "{history}"
    );

    cluster.kubectl(&["delete", "daemonset", "web"]);
    eventually("nothing is left", || {
        let left = cluster.kubectl(&[
            "get",
            "pods,controllerrevisions",
            "-l",
            "app=web",
            "-o",
            "name",
        ]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn a_stateful_set_is_rolled_out_in_order_changed_undone_and_scaled() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.load_guest("hello", "localhost/hello:v2");
    let set = web(3)
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("  replicas: 3\n", "  replicas: 3\n  serviceName: web\n");
    cluster.apply(&set);
    let rolled_out = |replicas: usize| {
        let said = cluster.kubectl(&["rollout", "status", "statefulset/web", "--timeout=60s"]);
        let complete = format!("partitioned roll out complete: {replicas} new pods");
        assert!(said.contains(&complete), "{said}");
    };
    rolled_out(3);
    let mut names = cluster.wait_ready("app=web", 3);
    names.sort();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    let pods = list(&cluster.get(&["pods", "-l", "app=web"])["items"]);
    let began: Vec<_> = pods
        .iter()
        .map(|pod| pod["metadata"]["creationTimestamp"].to_string())
        .collect();
    assert!(began.is_sorted(), "{began:?}");
    let one = cluster.get(&["pods", "-l", "apps.kubernetes.io/pod-index=1"]);
    assert_eq!(one["items"][0]["spec"]["hostname"], "web-1");

    cluster.kubectl(&["set", "image", "statefulset/web", "web=localhost/hello:v2"]);
    rolled_out(3);
    wait_images(&cluster, "localhost/hello:v2", 3);
    let history = cluster.kubectl(&["rollout", "history", "statefulset/web"]);
    assert!(
        history.contains("\n1 ") && history.contains("\n2 "),
        "{history}"
    );
    cluster.kubectl(&["rollout", "undo", "statefulset/web"]);
    rolled_out(3);
    wait_images(&cluster, "localhost/hello:v1", 3);
    cluster.kubectl(&["rollout", "restart", "statefulset/web"]);
    rolled_out(3);

    // The pods are left, and taken over with their history by the next of that name.
    cluster.kubectl(&["delete", "statefulset", "web", "--cascade=orphan"]);
    cluster.apply(&set);
    cluster.kubectl(&["rollout", "status", "statefulset/web", "--timeout=60s"]);
    wait_images(&cluster, "localhost/hello:v1", 3);
    let history = cluster.kubectl(&["rollout", "history", "statefulset/web"]);
    assert!(
        history.contains("\n4 "),
        "the history is adopted:\n{history}"
    );

    cluster.kubectl(&["scale", "statefulset", "web", "--replicas=1"]);
    eventually("the first alone is left", || {
        let left = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        (left.trim() == "pod/web-0").then_some(()).ok_or(left)
    });
    let table = cluster.kubectl(&["get", "statefulset", "web"]);
    assert!(table.contains("1/1"), "{table}");
    cluster.kubectl(&["delete", "statefulset", "web"]);
    eventually("nothing is left", || {
        let left = cluster.kubectl(&[
            "get",
            "pods,controllerrevisions",
            "-l",
            "app=web",
            "-o",
            "name",
        ]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn a_cron_job_makes_jobs_and_so_do_people_from_it() {
    let cluster = Vaquita::up();
    cluster.load_guest("core-command", "localhost/command:v1");
    cluster.apply(
        "apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: '@every 1s'
  timeZone: Europe/Vienna
  concurrencyPolicy: Forbid
  jobTemplate:
    metadata: {labels: {app: tick}}
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: localhost/command:v1}]
",
    );
    eventually("a job that has succeeded", || {
        let tick = cluster.get(&["cronjob", "tick"]);
        let status = tick["status"].clone();
        (status["lastScheduleTime"].is_string() && status["lastSuccessfulTime"].is_string())
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    let jobs = list(&cluster.get(&["jobs", "-l", "app=tick"])["items"]);
    assert_eq!(jobs[0]["metadata"]["ownerReferences"][0]["name"], "tick");
    let described = cluster.kubectl(&["describe", "cronjob", "tick"]);
    for part in ["SuccessfulCreate", "SawCompletedJob"] {
        assert!(described.contains(part), "no {part} in\n{described}");
    }
    cluster.kubectl(&[
        "patch",
        "cronjob",
        "tick",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ]);
    cluster.kubectl(&["create", "job", "by-hand", "--from=cronjob/tick"]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/by-hand",
        "--timeout=60s",
    ]);
    cluster.kubectl(&["delete", "cronjob", "tick"]);
    eventually("no job of it is left", || {
        let left = cluster.kubectl(&["get", "jobs,pods", "-o", "name"]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

/// A replication controller of one version of an HTTP component.
pub(crate) fn version(version: &str, replicas: usize) -> String {
    format!(
        "apiVersion: v1
kind: ReplicationController
metadata: {{name: web-{version}}}
spec:
  replicas: {replicas}
  selector: {{app: web, version: {version}}}
  template:
    metadata: {{labels: {{app: web, version: {version}}}}}
    spec:
      containers:
      - name: web
        image: localhost/hello:{version}
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

#[test]
fn a_replication_controller_is_replaced_step_by_step_and_back() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.load_guest("hello", "localhost/hello:v2");
    cluster.load_guest("trap-at-start", "localhost/hello:v3");
    let rolling_update = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
        command
            .env("KUBECONFIG", cluster.kubeconfig())
            .arg("rolling-update")
            .args(["--update-period=0s", "--poll-interval=50ms"]);
        run(command.args(args))
    };
    let file = |name: &str| {
        let path = cluster.dir().path().join(format!("{name}.yaml"));
        fs::write(&path, version(name, 2)).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    cluster.apply(&version("v1", 2));
    cluster.wait_ready("app=web", 2);

    let done = rolling_update(&["web-v1", "-f", &file("v2")]);
    assert!(done.status.success(), "{}", done.stderr);
    assert_eq!(
        done.stdout,
        "replicationcontroller/web-v2 rolling updated\n"
    );
    assert_eq!(done.stderr, "", "nothing but the end is told in a pipe");
    wait_images(&cluster, "localhost/hello:v2", 2);
    let left = cluster.kubectl(&["get", "rc", "-o", "name"]);
    assert_eq!(left.trim(), "replicationcontroller/web-v2");

    // A version that does not work takes nothing away, and can be taken back.
    let stuck = rolling_update(&["web-v2", "-f", &file("v3"), "--timeout=2s"]);
    assert!(
        !stuck.status.success() && stuck.stderr.contains("no progress"),
        "{}",
        stuck.stderr
    );
    assert_eq!(cluster.ready_pods("version=v2").len(), 2);
    let back = rolling_update(&["web-v2", "web-v3", "--rollback"]);
    assert!(back.status.success(), "{}", back.stderr);
    assert_eq!(back.stdout, "replicationcontroller/web-v2 rolled back\n");
    wait_images(&cluster, "localhost/hello:v2", 2);
    let kept = cluster.get(&["rc", "web-v2"]);
    let noted = kept["metadata"]["annotations"].to_string();
    assert!(!noted.contains("original-replicas"), "{noted}");

    let same = rolling_update(&["web-v2", "web-v1"]);
    assert!(
        same.stderr
            .contains("there is no replication controller web-v1"),
        "{}",
        same.stderr
    );
}

/// Random numbers from a seed, the same on every machine (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[test]
fn whenever_it_is_killed_it_ends_with_the_pods_that_were_asked_for() {
    const SEED: u64 = 5;
    println!("seed {SEED}");
    let mut random = Random(SEED);
    let mut cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.load_guest("hello", "localhost/hello:v2");
    cluster.load_guest("core-command", "localhost/command:v1");
    let set = web(3)
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("name: web", "name: db")
        .replace("app: web", "app: db");
    cluster.apply(&web(3));
    cluster.apply(&set);
    cluster.apply(
        "apiVersion: batch/v1
kind: Job
metadata: {name: each}
spec:
  completions: 12
  backoffLimit: 100
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: localhost/command:v1}]
",
    );
    let (mut image, mut size) = ("localhost/hello:v1".to_owned(), 3);
    for _ in 0..5 {
        image = format!("localhost/hello:v{}", 1 + random.below(2));
        size = 1 + usize::try_from(random.below(5)).expect("small");
        cluster.kubectl(&["set", "image", "deployment/web", &format!("web={image}")]);
        cluster.kubectl(&["set", "image", "statefulset/db", &format!("db={image}")]);
        cluster.kubectl(&[
            "scale",
            "deployment/web",
            "statefulset/db",
            &format!("--replicas={size}"),
        ]);
        thread::sleep(Duration::from_millis(random.below(1500)));
        cluster = Vaquita::up_again(cluster.kill());
    }
    wait_rolled_out(&cluster);
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/each",
        "--timeout=60s",
    ]);
    wait_images(&cluster, &image, size);
    let mut names = cluster.wait_ready("app=db", size);
    names.sort();
    let expected: Vec<_> = (0..size).map(|number| format!("db-{number}")).collect();
    assert_eq!(names, expected);
    let pods = list(&cluster.get(&["pods", "-l", "app=db"])["items"]);
    assert!(
        pods.iter()
            .all(|pod| pod["spec"]["containers"][0]["image"] == image.as_str())
    );
    let each = cluster.get(&["job", "each"]);
    assert_eq!(each["status"]["completedIndexes"], "0-11");
    assert_eq!(each["status"]["succeeded"], 12);
    let of_job = list(&cluster.get(&["pods", "-l", "job-name=each"])["items"]);
    let held = |pod: &serde_json::Value| !pod["metadata"]["finalizers"].is_null();
    assert!(!of_job.iter().any(held), "a pod is still held by the job");
}
