//! Pods of both kinds at once: Linux containers and modules with one address, one loopback, one hostname and the same
//! volumes.

use serde_json::Value;

use crate::{
    docker::{Engine, cluster, cluster_again},
    harness::{Vaquita, eventually, http_get, list},
    streams::Forwarded,
};

/// A pod in which a container serves a page, a module another one, and a second module has tools; and a Service over both.
const MIXED: &str = "apiVersion: v1
kind: Pod
metadata: {name: mixed, labels: {app: mixed}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: both
  containers:
  - name: linux
    image: localhost/busybox:v1
    command: [sh, -c, 'echo by Linux >/www/index.html; echo begun; exec httpd -f -p 8081 -h /www']
    readinessProbe: {httpGet: {port: 8081, path: /}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /shared}, {name: memory, mountPath: /memory}]
  - name: wasm
    image: localhost/hello:v1
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
  - name: tools
    image: localhost/toolbox:v1
    command: [toolbox, sleep, '3600']
    readinessProbe: {exec: {command: [wget, -q, -O, '-', 'http://localhost:8081/']}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /shared}, {name: memory, mountPath: /memory}]
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec:
  type: NodePort
  selector: {app: mixed}
  ports:
  - {name: wasm, port: 80, targetPort: 8080}
  - {name: linux, port: 81, targetPort: 8081}
";

/// What a command in one of the containers prints.
fn exec(cluster: &Vaquita, container: &str, args: &[&str]) -> String {
    let mut all = vec!["exec", "mixed", "-c", container, "--"];
    all.extend(args);
    cluster.kubectl(&all)
}

/// The page at a URL, as a container of the pod sees it.
fn page(cluster: &Vaquita, container: &str, url: &str) -> String {
    exec(cluster, container, &["wget", "-q", "-O", "-", url])
}

fn status_of(cluster: &Vaquita, container: &str) -> Value {
    let pod = cluster.get(&["pod", "mixed"]);
    let all = list(&pod["status"]["containerStatuses"]);
    let found = all.into_iter().find(|status| status["name"] == container);
    found.expect("its status")
}

#[test]
fn a_pod_of_both_kinds_is_one_pod() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(MIXED);
    cluster.wait_ready("app=mixed", 1);

    // One loopback, in both directions, and one address.
    let ip = cluster.get(&["pod", "mixed"])["status"]["podIP"].clone();
    let ip = ip.as_str().expect("an address");
    for host in ["localhost", "127.0.0.1", ip] {
        let by_linux = page(&cluster, "tools", &format!("http://{host}:8081/"));
        assert_eq!(by_linux, "by Linux\n", "{host}");
        let by_wasm = page(&cluster, "linux", &format!("http://{host}:8080/"));
        assert!(by_wasm.contains("both"), "{host}: {by_wasm}");
    }
    let taken = cluster.try_kubectl(&[
        "exec", "mixed", "-c", "tools", "--", "toolbox", "nc", "-l", "8081",
    ]);
    assert!(!taken.status.success(), "one port space: {}", taken.stdout);

    for container in ["linux", "tools"] {
        assert_eq!(exec(&cluster, container, &["hostname"]), "both\n");
        let hosts = exec(&cluster, container, &["cat", "/etc/hosts"]);
        assert!(hosts.contains(&format!("{ip}\tboth")), "{hosts}");
    }
    volumes_are_shared(&cluster);
    a_service_reaches_both(&cluster);
    ports_are_forwarded(&cluster);
    assert_eq!(
        cluster.kubectl(&["logs", "mixed", "-c", "linux"]),
        "begun\n"
    );

    // A module's end is its own, and it comes back to the same place.
    let processes = exec(&cluster, "tools", &["ps"]);
    let sleeper = processes.lines().find(|line| line.ends_with("sleep 3600"));
    let sleeper = sleeper.and_then(|line| line.split_whitespace().next());
    exec(&cluster, "tools", &["kill", sleeper.expect("its number")]);
    eventually("the module runs again", || {
        let status = status_of(&cluster, "tools");
        let is_back = status["restartCount"] == 1 && status["ready"] == true;
        is_back.then_some(()).ok_or_else(|| status.to_string())
    });
    assert_eq!(status_of(&cluster, "linux")["restartCount"], 0);
    assert_eq!(
        page(&cluster, "tools", "http://localhost:8081/"),
        "by Linux\n"
    );

    cluster.kubectl(&["delete", "pod", "mixed", "--wait"]);
    engine.is_empty();
}

fn volumes_are_shared(cluster: &Vaquita) {
    for volume in ["/shared", "/memory"] {
        let file = format!("{volume}/from-linux");
        exec(
            cluster,
            "linux",
            &["sh", "-c", &format!("echo hello >{file}")],
        );
        assert_eq!(exec(cluster, "tools", &["cat", &file]), "hello\n");
        exec(cluster, "tools", &["mkdir", &format!("{volume}/from-wasm")]);
        let listed = exec(cluster, "linux", &["ls", volume]);
        assert_eq!(listed, "from-linux\nfrom-wasm\n", "{volume}");
    }
}

fn a_service_reaches_both(cluster: &Vaquita) {
    let service = cluster.get(&["service", "mixed"]);
    for (index, expected) in ["both", "by Linux"].iter().enumerate() {
        let port = service["spec"]["ports"][index]["nodePort"].as_u64();
        let port = u16::try_from(port.expect("a node port")).expect("a port");
        let (status, body) = eventually("an answer", || http_get(port, "/"));
        assert!(status == 200 && body.contains(expected), "{status} {body}");
    }
}

fn ports_are_forwarded(cluster: &Vaquita) {
    for (port, expected) in [("8080", "both"), ("8081", "by Linux")] {
        let mut command = cluster.kubectl_command();
        command.args(["port-forward", "pod/mixed", &format!(":{port}")]);
        let forwarded = Forwarded::start(&mut command);
        let (_, body) = http_get(forwarded.port, "/").expect("an answer");
        assert!(body.contains(expected), "{body}");
    }
}

#[test]
fn a_pod_of_both_kinds_outlives_a_crash_as_far_as_the_kernel_keeps_it() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(MIXED);
    cluster.wait_ready("app=mixed", 1);
    let container = status_of(&cluster, "linux")["containerID"].clone();
    let ip = cluster.get(&["pod", "mixed"])["status"]["podIP"].clone();
    let cluster = cluster_again(&engine, cluster.kill());
    cluster.wait_ready("app=mixed", 1);
    let linux = status_of(&cluster, "linux");
    assert_eq!(linux["containerID"], container);
    assert_eq!(linux["restartCount"], 0);
    assert_eq!(cluster.get(&["pod", "mixed"])["status"]["podIP"], ip);
    eventually("the modules run again, where they were", || {
        let wasm = status_of(&cluster, "wasm");
        if wasm["restartCount"] != 1 || wasm["ready"] != true {
            return Err(wasm.to_string());
        }
        let printed = cluster.try_kubectl(&[
            "exec",
            "mixed",
            "-c",
            "linux",
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            "http://localhost:8080/",
        ]);
        let is_right = printed.stdout.contains("both");
        is_right.then_some(()).ok_or(printed.stderr)
    });
    cluster.kubectl(&["delete", "pod", "mixed", "--wait"]);
    engine.is_empty();
}
