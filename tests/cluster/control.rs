//! What the cluster's own controllers do, as stock kubectl shows it: budgets and drains, metrics and autoscaling, tokens in
//! Secrets, Endpoints written by hand, leadership.

use crate::{
    harness::{Vaquita, eventually, list},
    pods::web,
};

const BUDGET: &str = "apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
";

#[test]
fn a_drain_takes_what_the_budget_allows_and_no_more() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("web", 3));
    cluster.apply(BUDGET);
    cluster.wait_ready("app=web", 3);
    let allowed = |wanted: i64| {
        eventually("a count", || {
            let status = cluster.get(&["pdb", "web"])["status"].take();
            if status["disruptionsAllowed"] == wanted && status["expectedPods"] == 3 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    allowed(1);
    let drain = [
        "drain",
        "test-node",
        "--timeout=6s",
        "--pod-selector=app=web",
    ];
    let printed = cluster.try_kubectl(&drain);
    assert!(!printed.status.success(), "{}", printed.stdout);
    assert_eq!(cluster.ready_pods("app=web").len(), 2, "{}", printed.stderr);
    allowed(0);
    cluster.kubectl(&["uncordon", "test-node"]);
    cluster.wait_ready("app=web", 3);
    allowed(1);
}

#[test]
fn use_is_measured_and_autoscaled_by() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    let requests = "image: localhost/hello:v1\n        resources: {requests: {cpu: 100m}}";
    cluster.apply(&web("web", 1).replace("image: localhost/hello:v1", requests));
    let pods = cluster.wait_ready("app=web", 1);
    let top = eventually("metrics", || {
        let printed = cluster.try_kubectl(&["top", "pods"]);
        if printed.stdout.contains(&pods[0]) {
            Ok(printed.stdout)
        } else {
            Err(printed.stderr)
        }
    });
    assert!(top.starts_with("NAME"), "{top}");
    assert!(cluster.kubectl(&["top", "nodes"]).contains("test-node"));
    let table = cluster.kubectl(&["get", "pods.metrics.k8s.io"]);
    assert!(table.contains("WINDOW"), "{table}");
    // Fewer than there must be: that needs no metrics.
    cluster.kubectl(&[
        "autoscale",
        "rc",
        "web",
        "--min=2",
        "--max=4",
        "--cpu-percent=50",
    ]);
    cluster.wait_ready("app=web", 2);
    eventually("a condition", || {
        let status = cluster.get(&["hpa", "web"])["status"].take();
        let conditions = list(&status["conditions"]);
        let able = conditions
            .iter()
            .any(|one| one["type"] == "AbleToScale" && one["status"] == "True");
        if able && status["desiredReplicas"] == 2 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[test]
fn accounts_and_endpoints_that_users_write_by_hand_are_served() {
    let cluster = Vaquita::up_with(&["--leader-elect"]);
    cluster.apply(
        "apiVersion: v1
kind: Secret
metadata: {name: token, annotations: {kubernetes.io/service-account.name: default}}
type: kubernetes.io/service-account-token
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 8080}]}]
",
    );
    eventually("a token", || {
        let data = cluster.get(&["secret", "token"])["data"].take();
        let whole = ["token", "ca.crt", "namespace"]
            .iter()
            .all(|field| data[*field].is_string());
        if whole { Ok(()) } else { Err(data.to_string()) }
    });
    eventually("a mirror", || {
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=outside"]);
        let address = slices["items"][0]["endpoints"][0]["addresses"][0].clone();
        if address == "192.0.2.7" {
            Ok(())
        } else {
            Err(slices.to_string())
        }
    });
    let lease = cluster.get(&["lease", "kube-scheduler", "-n", "kube-system"]);
    let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(holder.starts_with("test-node_"), "{holder}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
}
