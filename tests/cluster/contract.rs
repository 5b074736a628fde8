//! More of the contract of [`backends`](crate::backends): what people do with running pods. Each check takes a kind of image, and
//! must not have to ask which. What differs is in the book, under "Linux containers" of the differences.

use std::{fs, thread};

use crate::{
    backends::{KINDS, Kind},
    docker::{Engine, cluster},
    harness::{Vaquita, eventually, list, run_with_input},
    streams::Forwarded,
};

/// The pods that the checks need, for one kind.
fn manifests(kind: Kind) -> String {
    let Kind {
        name,
        image,
        program,
    } = kind;
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}-texts}}
data: {{lines: \"one\\ntwo\\nthree\\nfour\\nfive\\n\", one: once}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-box, labels: {{app: {name}-box}}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - name: main
    image: {image}
    command: [{program}, sleep, '3600']
    workingDir: /data
    volumeMounts: [{{name: data, mountPath: /data}}]
    lifecycle: {{postStart: {{exec: {{command: [{program}, mkdir, /data/begun]}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-lines}}
spec:
  restartPolicy: Never
  volumes: [{{name: texts, configMap: {{name: {name}-texts}}}}]
  containers:
  - name: main
    image: {image}
    command: [{program}, cat, /texts/lines]
    volumeMounts: [{{name: texts, mountPath: /texts}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-again}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{name: texts, configMap: {{name: {name}-texts}}}}]
  containers:
  - name: main
    image: {image}
    command: [{program}, cat, /texts/one]
    volumeMounts: [{{name: texts, mountPath: /texts}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-sick}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    command: [{program}, sleep, '3600']
    livenessProbe: {{exec: {{command: [{program}, 'false']}}, periodSeconds: 1, failureThreshold: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-reader}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: {image}, command: [{program}, cat], stdin: true, stdinOnce: true}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-late}}
spec:
  activeDeadlineSeconds: 1
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: {image}, command: [{program}, sleep, '3600']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-served, labels: {{app: {name}-served}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    command: [{program}, nc, -l{dash}, '7000']
    ports: [{{containerPort: 7000}}]
",
        // The one takes the port by itself, the other as an option.
        dash = if program == "busybox" { "p" } else { "" },
    )
}

#[test]
fn what_people_do_with_pods_works_for_both_kinds() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    for kind in KINDS {
        cluster.apply(&manifests(kind));
    }
    // Side by side: much of it is waiting.
    thread::scope(|scope| {
        for kind in KINDS {
            let cluster = &cluster;
            scope.spawn(move || check(cluster, kind));
        }
    });
    cluster.kubectl(&["delete", "pods", "--all", "--wait"]);
    engine.is_empty();
}

fn check(cluster: &Vaquita, kind: Kind) {
    cluster.wait_ready(&format!("app={}-box", kind.name), 1);
    commands(cluster, kind);
    files_are_copied(cluster, kind);
    logs(cluster, kind);
    attach(cluster, kind);
    ends(cluster, kind);
    forward(cluster, kind);
}

fn commands(cluster: &Vaquita, kind: Kind) {
    let pod = format!("{}-box", kind.name);
    let exec = |args: &[&str]| {
        let mut all = vec!["exec", &pod, "--"];
        all.extend(args);
        cluster.try_kubectl(&all)
    };
    let text = "line\n".repeat(50_000);
    let mut cat = cluster.kubectl_command();
    let echoed = run_with_input(
        cat.args(["exec", "-i", &pod, "--", kind.program, "cat"]),
        &text,
    );
    assert_eq!(
        echoed.stdout.len(),
        text.len(),
        "{}: {}",
        kind.name,
        echoed.stderr
    );
    let complaint = exec(&[kind.program, "cat", "/absent"]);
    assert_eq!(complaint.status.code(), Some(1), "{}", complaint.stderr);
    assert!(
        complaint.stdout.is_empty() && complaint.stderr.contains("/absent"),
        "{}",
        complaint.stderr
    );
    let absent = exec(&["/data/no-such-program"]);
    assert!(!absent.status.success(), "{}", absent.stdout);
    // What the hook has made.
    assert_eq!(
        exec(&[kind.program, "ls", "/data"]).stdout,
        "begun\n",
        "{}",
        kind.name
    );
    // Nothing of the kind is on a client's way: commands run beside each other.
    thread::scope(|scope| {
        for number in 0..4 {
            let (pod, program) = (&pod, kind.program);
            scope.spawn(move || {
                let said = number.to_string();
                let printed = cluster.kubectl(&["exec", pod, "--", program, "echo", &said]);
                assert_eq!(printed, format!("{said}\n"));
            });
        }
    });
}

fn files_are_copied(cluster: &Vaquita, kind: Kind) {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("up/deep")).expect("a directory");
    fs::write(at("up/deep/file"), "x".repeat(300_000)).expect("a file");
    let path = |name: &str| at(name).to_str().expect("a path").to_owned();
    let there = format!("{}-box:/data/there", kind.name);
    cluster.kubectl(&["cp", &path("up"), &there]);
    cluster.kubectl(&["cp", &there, &path("down")]);
    let back = fs::read(at("down/deep/file")).expect("it is back");
    assert_eq!(back.len(), 300_000, "{}", kind.name);
}

fn logs(cluster: &Vaquita, kind: Kind) {
    let pod = format!("{}-lines", kind.name);
    eventually("all lines are there", || {
        let log = cluster.try_kubectl(&["logs", &pod]).stdout;
        (log == "one\ntwo\nthree\nfour\nfive\n")
            .then_some(())
            .ok_or(log)
    });
    assert_eq!(cluster.kubectl(&["logs", &pod, "--tail=2"]), "four\nfive\n");
    assert_eq!(
        cluster.kubectl(&["logs", &pod, "--limit-bytes=5"]),
        "one\nt"
    );
    assert_eq!(
        cluster
            .kubectl(&["logs", &pod, "--since=1h", "--follow"])
            .lines()
            .count(),
        5
    );
    let stamped = cluster.kubectl(&["logs", &pod, "--timestamps"]);
    let first = stamped.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("20") && first.ends_with("Z one"),
        "{first}"
    );
    // Of the instance before the one that runs, or waits to run.
    let again = format!("{}-again", kind.name);
    eventually("it ran again", || {
        let pod = cluster.get(&["pod", &again]);
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (count >= Some(1))
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    assert_eq!(cluster.kubectl(&["logs", &again, "--previous"]), "once");
}

fn attach(cluster: &Vaquita, kind: Kind) {
    let pod = format!("{}-reader", kind.name);
    eventually("it reads", || {
        let found = cluster.get(&["pod", &pod]);
        let is_running = found["status"]["phase"] == "Running";
        is_running
            .then_some(())
            .ok_or_else(|| found["status"].to_string())
    });
    let mut attach = cluster.kubectl_command();
    let printed = run_with_input(attach.args(["attach", "-i", &pod]), "typed\n");
    assert!(
        printed.stdout.contains("typed"),
        "{}: {}",
        kind.name,
        printed.stderr
    );
    phase(cluster, &pod, "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", &pod]), "typed\n");
}

fn ends(cluster: &Vaquita, kind: Kind) {
    let late = format!("{}-late", kind.name);
    phase(cluster, &late, "Failed");
    let pod = cluster.get(&["pod", &late]);
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    let sick = format!("{}-sick", kind.name);
    eventually("it is started again", || {
        let pod = cluster.get(&["pod", &sick]);
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (count >= Some(1))
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    let selector = format!("involvedObject.name={sick}");
    let events = cluster.get(&["events", "--field-selector", &selector]);
    let reasons: Vec<String> = list(&events["items"])
        .iter()
        .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
        .collect();
    for reason in [
        "Scheduled",
        "Pulled",
        "Created",
        "Started",
        "Unhealthy",
        "Killing",
    ] {
        assert!(
            reasons.iter().any(|found| found == reason),
            "{}: {reason}: {reasons:?}",
            kind.name
        );
    }
}

fn phase(cluster: &Vaquita, pod: &str, wanted: &str) {
    eventually(&format!("{pod} is {wanted}"), || {
        let found = cluster.get(&["pod", pod]);
        let is_there = found["status"]["phase"] == wanted;
        is_there
            .then_some(())
            .ok_or_else(|| found["status"].to_string())
    });
}

fn forward(cluster: &Vaquita, kind: Kind) {
    let pod = format!("pod/{}-served", kind.name);
    let mut command = cluster.kubectl_command();
    command.args(["port-forward", &pod, ":7000"]);
    let forwarded = Forwarded::start(&mut command);
    drop(std::net::TcpStream::connect(("127.0.0.1", forwarded.port)).expect("a connection"));
    // Whoever was connected has gone: what listened for one connection ends, and so does its container.
    eventually("it has had its connection", || {
        let name = pod.trim_start_matches("pod/");
        let found = cluster.get(&["pod", name]);
        let count = found["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (count >= Some(1))
            .then_some(())
            .ok_or_else(|| found["status"].to_string())
    });
}
