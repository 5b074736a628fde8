//! Workloads that sleep while nobody needs them, seen from outside.

use std::{net::TcpStream, thread};

use crate::harness::{Vaquita, eventually, http_get, list};

fn web(kind: &str, idle: &str) -> String {
    let (version, selector) = match kind {
        "Deployment" => ("apps/v1", "{matchLabels: {app: web}}"),
        _ => ("v1", "{app: web}"),
    };
    format!(
        "apiVersion: {version}
kind: {kind}
metadata: {{name: web, annotations: {{vaquita.dev/scale-to-zero: '{idle}'}}}}
spec:
  replicas: 2
  selector: {selector}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: localhost/hello:v1
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
"
    )
}

fn wait_asleep(cluster: &Vaquita, kind: &str) {
    eventually("no pod is left", || {
        let object = cluster.get(&[kind, "web"]);
        let pods = list(&cluster.get(&["pods"])["items"]);
        let asleep = object["spec"]["replicas"] == 0 && pods.is_empty();
        asleep.then_some(()).ok_or_else(|| object.to_string())
    });
}

fn answered(port: u16) {
    let (status, body) = http_get(port, "/").expect("an answer");
    assert!(
        status == 200 && body.contains("hello from web-"),
        "{status} {body}"
    );
}

#[test]
fn an_idle_deployment_sleeps_and_the_next_request_wakes_it() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("Deployment", "2s"));
    wait_asleep(&cluster, "deployment");
    let annotations = cluster.get(&["deployment", "web"])["metadata"]["annotations"].clone();
    assert_eq!(annotations["vaquita.dev/replicas-when-awake"], "2");
    let port = cluster.node_port("web");

    // Many at once: none is lost, and it goes back to what it was.
    let clients: Vec<_> = (0..20)
        .map(|_| thread::spawn(move || answered(port)))
        .collect();
    for client in clients {
        client.join().expect("each is answered");
    }
    cluster.wait_ready("app=web", 2);

    // As long as somebody is connected, it stays; the probes of the node don't count.
    let held = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(cluster.ready_pods("app=web").len(), 2);
    drop(held);
    wait_asleep(&cluster, "deployment");

    // Asleep over a restart.
    let cluster = Vaquita::up_again(cluster.kill());
    answered(cluster.node_port("web"));
    eventually("events of both", || {
        let events = cluster.kubectl(&["get", "events"]);
        let said = events.contains("ScaledToZero") && events.contains("Awake");
        said.then_some(()).ok_or(events)
    });
}

#[test]
fn a_replication_controller_sleeps_too_and_people_decide() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("ReplicationController", "2s"));
    wait_asleep(&cluster, "rc");
    let port = cluster.node_port("web");
    answered(port);

    // Off is off.
    cluster.kubectl(&["scale", "rc", "web", "--replicas=0"]);
    eventually("connections are refused", || match http_get(port, "/") {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
    cluster.kubectl(&["scale", "rc", "web", "--replicas=1"]);
    cluster.wait_ready("app=web", 1);
    answered(port);
    cluster.kubectl(&[
        "annotate",
        "rc",
        "web",
        "vaquita.dev/scale-to-zero=never",
        "--overwrite",
    ]);
    eventually("an event about the mistake", || {
        let events = cluster.kubectl(&["get", "events"]);
        events
            .contains("InvalidScaleToZero")
            .then_some(())
            .ok_or(events)
    });
}

#[test]
fn an_autoscaler_leaves_a_workload_asleep() {
    let cluster = Vaquita::up_with(&["--wake-timeout", "20s", "--max-held-connections", "8"]);
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("Deployment", "2s"));
    cluster.apply(
        "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 4
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}
",
    );
    wait_asleep(&cluster, "deployment");
    let is_off = || {
        let scaler = cluster.get(&["hpa", "web"]);
        let conditions = list(&scaler["status"]["conditions"]);
        let active = conditions.iter().find(|one| one["type"] == "ScalingActive");
        let reason = active.map(|one| one["reason"].clone());
        reason.is_some_and(|reason| reason == "ScalingDisabled")
    };
    eventually("the autoscaler stands back", || {
        is_off()
            .then_some(())
            .ok_or_else(|| "it does not".to_owned())
    });
    let port = cluster.node_port("web");
    answered(port);
    let _awake = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    cluster.wait_ready("app=web", 2);
    eventually("the autoscaler is back", || {
        (!is_off())
            .then_some(())
            .ok_or_else(|| "it is not".to_owned())
    });
}
