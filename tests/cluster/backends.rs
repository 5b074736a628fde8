//! One contract for both backends: the same manifests show the same behaviour, whether the image is a module or a Linux
//! one. And what only Linux containers have: they outlive the process that started them.

use crate::{
    docker::{BUSYBOX, Engine, cluster, cluster_again},
    harness::{Vaquita, eventually, list},
};

/// One of the two kinds of images, with the same small programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) image: &'static str,
    /// What begins a command.
    pub(crate) program: &'static str,
}

pub(crate) const KINDS: [Kind; 2] = [
    Kind {
        name: "wasm",
        image: "localhost/toolbox:v1",
        program: "toolbox",
    },
    Kind {
        name: "linux",
        image: BUSYBOX,
        program: "busybox",
    },
];

/// The manifests of the contract, for one kind.
fn manifests(kind: Kind) -> String {
    let Kind {
        name,
        image,
        program,
    } = kind;
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}-words}}
data: {{greeting: good morning}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-main, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: somebody
  hostAliases: [{{ip: 192.0.2.7, hostnames: [far.example]}}]
  initContainers:
  - name: first
    image: {image}
    command: [{program}, echo, first]
  containers:
  - name: main
    image: {image}
    command: [{program}, sleep, '3600']
    env:
    - {{name: COLOUR, value: blue}}
    - {{name: ADDRESS, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    readinessProbe: {{exec: {{command: [{program}, cat, /words/greeting]}}, periodSeconds: 1}}
    volumeMounts:
    - {{name: words, mountPath: /words}}
    - {{name: data, mountPath: /data}}
    - {{name: data, mountPath: /part, subPath: deep/part, readOnly: true}}
    - {{name: memory, mountPath: /memory}}
  volumes:
  - {{name: words, configMap: {{name: {name}-words}}}}
  - {{name: data, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-done}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: {image}, command: [{program}, echo, that is all]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-failed}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {image}
    command: [{program}, cat, /absent]
    terminationMessagePolicy: FallbackToLogsOnError
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-loop}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: {image}, command: [{program}, 'false']}}]
"
    )
}

#[test]
fn both_kinds_of_containers_behave_alike() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    let node = cluster.get(&["node", "test-node"]);
    assert_eq!(node["metadata"]["labels"]["vaquita.dev/containers"], "true");
    for kind in KINDS {
        cluster.apply(&manifests(kind));
    }
    for kind in KINDS {
        main_pod(&cluster, kind);
        ended_pods(&cluster, kind);
    }
    for kind in KINDS {
        let pods = ["main", "done", "failed", "loop"].map(|pod| format!("{}-{pod}", kind.name));
        let mut delete = vec!["delete", "pod", "--wait"];
        delete.extend(pods.iter().map(String::as_str));
        cluster.kubectl(&delete);
    }
    engine.is_empty();
    assert!(cluster.stop().success());
    let networks = engine.request(&["/networks"]).stdout;
    assert!(!networks.contains(&engine.network()), "{networks}");
}

fn main_pod(cluster: &Vaquita, kind: Kind) {
    let name = kind.name;
    cluster.wait_ready(&format!("app={name}"), 1);
    let pod = format!("{name}-main");
    let status = cluster.get(&["pod", &pod])["status"].clone();
    let ip = status["podIP"].as_str().expect("an address").to_owned();
    assert_eq!(
        status["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    assert_eq!(cluster.kubectl(&["logs", &pod, "-c", "first"]), "first\n");

    let exec = |args: &[&str]| {
        let mut all = vec!["exec", &pod, "--", kind.program];
        all.extend(args);
        cluster.try_kubectl(&all)
    };
    assert_eq!(exec(&["echo", "hello", "you"]).stdout, "hello you\n");
    assert_eq!(exec(&["hostname"]).stdout, "somebody\n");
    let environment = exec(&["env"]).stdout;
    for line in ["COLOUR=blue".to_owned(), format!("ADDRESS={ip}")] {
        assert!(
            environment.lines().any(|found| found == line),
            "{name}: {line}\n{environment}"
        );
    }
    assert!(
        environment.contains("KUBERNETES_SERVICE_HOST="),
        "{environment}"
    );
    let failed = exec(&["false"]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stderr);
    assert_eq!(exec(&["cat", "/words/greeting"]).stdout, "good morning");
    let hosts = exec(&["cat", "/etc/hosts"]).stdout;
    assert!(
        hosts.contains(&format!("{ip}\tsomebody")) && hosts.contains("192.0.2.7\tfar.example"),
        "{hosts}"
    );
    let resolver = exec(&["cat", "/etc/resolv.conf"]).stdout;
    assert!(
        resolver.contains("search default.svc.cluster.local"),
        "{resolver}"
    );
    assert!(exec(&["ls", "/part"]).status.success());
    assert!(exec(&["ls", "/memory"]).status.success());
}

fn ended_pods(cluster: &Vaquita, kind: Kind) {
    let name = kind.name;
    let end = |pod: &str, phase: &str| {
        eventually(&format!("{pod} is {phase}"), || {
            let found = cluster.get(&["pod", pod]);
            let status = &found["status"];
            let is_there = status["phase"] == phase;
            is_there
                .then(|| status["containerStatuses"][0]["state"]["terminated"].clone())
                .ok_or_else(|| status.to_string())
        })
    };
    let done = end(&format!("{name}-done"), "Succeeded");
    assert_eq!(
        (&done["reason"], &done["exitCode"]),
        (&"Completed".into(), &0.into())
    );
    assert_eq!(
        cluster.kubectl(&["logs", &format!("{name}-done")]),
        "that is all\n"
    );
    let failed = end(&format!("{name}-failed"), "Failed");
    assert_eq!(
        (&failed["reason"], &failed["exitCode"]),
        (&"Error".into(), &1.into())
    );
    let message = failed["message"].as_str().unwrap_or_default();
    assert!(message.contains("/absent"), "{name}: {failed}");
    eventually(&format!("{name}-loop waits to be started again"), || {
        let found = cluster.get(&["pod", &format!("{name}-loop")]);
        let status = found["status"]["containerStatuses"][0].clone();
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        let last = &status["lastState"]["terminated"];
        let is_right = waits && last["exitCode"] == 1 && status["restartCount"].as_u64() >= Some(1);
        is_right.then_some(()).ok_or_else(|| status.to_string())
    });
}

#[test]
fn what_runs_outlives_a_crash_and_is_taken_over() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: stays, labels: {app: stays}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/busybox:v1
    command: [sh, -c, 'echo begun; i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done']
---
apiVersion: v1
kind: Pod
metadata: {name: goes, labels: {app: goes}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: localhost/busybox:v1, command: [sleep, '3600']}]
",
    );
    cluster.wait_ready("app=stays", 1);
    cluster.wait_ready("app=goes", 1);
    let facts = |cluster: &Vaquita| {
        let pod = cluster.get(&["pod", "stays"]);
        let status = &pod["status"];
        let container = status["containerStatuses"][0].clone();
        (
            status["podIP"].clone(),
            container["containerID"].clone(),
            container["restartCount"].clone(),
        )
    };
    let before = facts(&cluster);
    // What was written in the second of the crash may be there twice afterwards.
    eventually("its beginning is some seconds ago", || {
        let log = cluster.kubectl(&["logs", "stays"]);
        log.contains("tick 4").then_some(()).ok_or(log)
    });
    let dir = cluster.kill();
    assert!(engine.containers().contains("vaquita_main_stays"));

    let cluster = cluster_again(&engine, dir);
    cluster.wait_ready("app=stays", 1);
    assert_eq!(facts(&cluster), before);
    // Its output goes on in the same log, and its commands run.
    let begun = |log: &str| log.lines().filter(|line| *line == "begun").count();
    let ticks = |log: &str| log.lines().filter(|line| line.starts_with("tick")).count();
    let seen = ticks(&cluster.kubectl(&["logs", "stays"]));
    eventually("the log goes on", || {
        let log = cluster.kubectl(&["logs", "stays"]);
        (ticks(&log) > seen && begun(&log) == 1)
            .then_some(())
            .ok_or(log)
    });
    assert_eq!(
        cluster.kubectl(&["exec", "stays", "--", "echo", "here"]),
        "here\n"
    );
    cluster.kubectl(&["delete", "pod", "stays", "goes", "--wait"]);
    engine.is_empty();
    let events = list(&cluster.get(&["events"]));
    assert!(!events.iter().any(|event| event["reason"] == "BackOff"));
}
