//! What a node does with pods beyond running them: other resources while they run, rules for restarts, policies for modules,
//! volumes of their own, figures.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use serde_json::Value;

use crate::harness::{Vaquita, eventually, http_get, list};

fn cluster() -> Vaquita {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster
}

fn first_status(cluster: &Vaquita, pod: &str) -> Value {
    cluster.get(&["pod", pod])["status"]["containerStatuses"][0].clone()
}

fn condition(cluster: &Vaquita, pod: &str, type_: &str) -> Option<Value> {
    let conditions = list(&cluster.get(&["pod", pod])["status"]["conditions"]);
    conditions.into_iter().find(|one| one["type"] == type_)
}

#[test]
fn a_pod_is_resized_while_it_runs() {
    let cluster = cluster();
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: localhost/hello:v1
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {memory: 32Mi}}
",
    );
    cluster.wait_ready("app=web", 1);
    let resize = |cpu: &str, memory: &str| {
        // The class of the pod must not change: it may have more than it requests.
        let resources = format!(
            r#"{{"requests":{{"cpu":"{cpu}","memory":"{memory}"}},"limits":{{"memory":"{memory}"}}}}"#
        );
        let patch =
            format!(r#"{{"spec":{{"containers":[{{"name":"web","resources":{resources}}}]}}}}"#);
        cluster.kubectl(&[
            "patch",
            "pod",
            "web",
            "--subresource",
            "resize",
            "--patch",
            &patch,
        ]);
    };
    resize("200m", "64Mi");
    eventually("the container has more", || {
        let status = first_status(&cluster, "web");
        let has = status["resources"]["limits"]["memory"] == "64Mi"
            && status["allocatedResources"]["cpu"] == "200m";
        has.then_some(()).ok_or_else(|| status.to_string())
    });
    assert_eq!(first_status(&cluster, "web")["restartCount"], 0);
    resize("100000", "64Mi");
    eventually("that is too much", || {
        let pending = condition(&cluster, "web", "PodResizePending");
        let is_refused = pending
            .as_ref()
            .is_some_and(|it| it["reason"] == "Infeasible");
        is_refused
            .then_some(())
            .ok_or_else(|| format!("{pending:?}"))
    });
    resize("100m", "64Mi");
    eventually("nothing is pending", || {
        let pending = condition(&cluster, "web", "PodResizePending");
        pending.map_or(Ok(()), |pending| Err(pending.to_string()))
    });
}

#[test]
fn a_volume_of_the_pods_own_gets_a_claim_and_figures() {
    let cluster = cluster();
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: localhost/hello:v1
    volumeMounts: [{name: scratch, mountPath: /scratch}, {name: empty, mountPath: /empty}]
  volumes:
  - name: empty
    emptyDir: {sizeLimit: 1Mi}
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        metadata: {labels: {for: web}}
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
",
    );
    cluster.wait_ready("app=web", 1);
    let claim = cluster.get(&["pvc", "web-scratch"]);
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "web");
    assert_eq!(claim["status"]["phase"], "Bound");
    let node = "/api/v1/nodes/test-node/proxy";
    let summary = cluster.kubectl(&["get", "--raw", &format!("{node}/stats/summary")]);
    let summary: Value = serde_json::from_str(&summary).expect("a summary");
    let pods = list(&summary["pods"]);
    let web = pods.iter().find(|pod| pod["podRef"]["name"] == "web");
    let web = web.expect("figures of the pod");
    let volumes = list(&web["volume"]);
    let volume = |name: &str| volumes.iter().find(|volume| volume["name"] == name);
    assert_eq!(volume("empty").expect("emptyDir")["capacityBytes"], 1 << 20);
    let scratch = volume("scratch").expect("a claim");
    assert_eq!(scratch["pvcRef"]["name"], "web-scratch");
    assert_eq!(scratch["capacityBytes"], 1 << 20);
    assert!(summary["node"]["fs"]["inodes"].is_number() || cfg!(not(target_os = "linux")));
    let metrics = cluster.kubectl(&["get", "--raw", &format!("{node}/metrics/cadvisor")]);
    assert!(
        metrics.contains("container_memory_working_set_bytes{container=\"web\""),
        "{metrics}"
    );
    cluster.kubectl(&["delete", "pod", "web", "--now"]);
    eventually("the claim goes with the pod", || {
        let found = cluster.try_kubectl(&["get", "pvc", "web-scratch"]);
        let is_gone = found.stderr.contains("NotFound");
        is_gone.then_some(()).ok_or(found.stdout)
    });
}

#[test]
fn policies_bound_what_modules_may_have() {
    let cluster = cluster();
    cluster.apply(include_str!("../../policies/wasm-policy.yaml"));
    let policies = "apiVersion: vaquita.dev/v1alpha1
kind: ClusterWasmPolicy
metadata: {name: small}
spec:
  bounds: {memory: 1Mi}
---
apiVersion: v1
kind: Namespace
metadata: {name: free}
---
apiVersion: vaquita.dev/v1alpha1
kind: WasmPolicy
metadata: {name: more, namespace: free}
spec:
  bounds: {memory: 4Mi}
";
    eventually("the kinds are there", || {
        let applied = cluster.try_apply(policies);
        applied.status.success().then_some(()).ok_or(applied.stderr)
    });
    for namespace in ["default", "free"] {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: large, namespace: {namespace}}}
spec:
  containers:
  - {{name: web, image: 'localhost/hello:v1', resources: {{limits: {{memory: 2Mi}}}}}}
"
        ));
    }
    eventually("it is refused", || {
        let status = first_status(&cluster, "large");
        let waiting = &status["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        let is_refused = message.ends_with("ClusterWasmPolicy small allows");
        is_refused.then_some(()).ok_or_else(|| status.to_string())
    });
    eventually("its namespace's own policy comes first", || {
        let pod = cluster.get(&["pod", "large", "-n", "free"]);
        let runs = pod["status"]["phase"] == "Running";
        runs.then_some(()).ok_or_else(|| pod["status"].to_string())
    });
}

#[test]
fn a_port_of_the_host_leads_to_the_pod() {
    let cluster = cluster();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  containers:
  - name: web
    image: localhost/hello:v1
    ports: [{{containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]
"
    ));
    cluster.wait_ready("app=web", 1);
    let (status, body) = http_get(port, "/").expect("an answer");
    assert_eq!(status, 200, "{body}");
}

/// A program that listens by itself, and would go on with its one client after it was told to end.
const LINGERING: &str = "apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 60
  containers: [{name: main, image: localhost/lingering:v1}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: NodePort
  selector: {app: server}
  ports: [{port: 7000}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: localhost/toolbox:v1, command: [toolbox], args: [sleep, '3600']}]
";

#[test]
fn a_pod_that_is_told_to_end_takes_no_more_connections_and_serves_those_it_has() {
    let cluster = cluster();
    cluster.load_guest("lingering", "localhost/lingering:v1");
    cluster.load_guest("toolbox", "localhost/toolbox:v1");
    cluster.apply(LINGERING);
    cluster.wait_ready("app=server", 1);
    cluster.wait_ready("app=client", 1);
    let said = |what: &str| {
        eventually(what, || {
            let logs = cluster.kubectl(&["logs", "server"]);
            logs.contains(what).then_some(()).ok_or(logs)
        });
    };
    said("listening");
    let port = cluster.node_port("server");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
    said("connected");
    let server = cluster.get(&["pod", "server"]);
    let ip = server["status"]["podIP"].as_str().expect("an address");
    let ask = ["exec", "client", "--", "nc", "-z", ip, "7000"];
    assert_eq!(
        cluster.try_kubectl(&ask).status.code(),
        Some(0),
        "it listens"
    );

    cluster.kubectl(&["delete", "pod", "server", "--wait=false"]);
    said("told to end");
    // Its listener is still open: it is the pod that refuses.
    let refused = cluster.try_kubectl(&ask);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("refused"), "{}", refused.stderr);
    stream.write_all(b"late\n").expect("it is connected");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it is answered");
    assert_eq!(&answer, b"late\n");
    drop(stream);
    cluster.kubectl(&["wait", "--for=delete", "pod/server", "--timeout=30s"]);
}
