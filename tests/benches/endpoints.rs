//! How soon connections follow readiness: from a pod's status to the table by which connects find endpoints.
//!
//! `cargo bench --bench endpoints` starts a cluster within this process, and has pods of a Service become ready and not ready
//! by writing their status, as a node does. Between the answer to that write and the change in the network are the
//! endpoints controller, the write of a slice, and the service proxy. The node has nothing to do with these pods, which
//! are said to be on another one.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use vaquita::{Cluster, ClusterConfig};

const ROUNDS: u32 = 200;
/// Pods of the Service that are ready all the time: what is written grows with them.
const OTHERS: u32 = 100;
const NAME: &str = "bench.default.svc.cluster.local";
/// How often is looked: so much too long a time may be.
const GLANCE: Duration = Duration::from_millis(1);
/// Longer than any answer can take.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = ClusterConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().expect("an address");
    let cluster = Cluster::start(config).await.expect("it starts");
    let client = cluster.client();
    let node = json!({"metadata": {"name": "elsewhere"}, "spec": {"taints": [
        {"key": "bench", "effect": "NoSchedule"}]}});
    create::<Node>(&Api::all(client.clone()), node).await;
    let service = json!({"metadata": {"name": "bench"}, "spec": {
        "clusterIP": "None", "selector": {"app": "bench"}, "ports": [{"port": 80}]}});
    create::<Service>(&Api::default_namespaced(client.clone()), service).await;
    for number in 1..=OTHERS {
        pod(&client, number).await;
    }
    wait_for(&cluster, |found| found.len() == OTHERS as usize).await;

    let ours = OTHERS + 1;
    pod(&client, ours).await;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let ready = round % 2 == 1;
        set_ready(&client, ours, ready).await;
        let written = Instant::now();
        wait_for(&cluster, |found| found.contains(&address(ours)) == ready).await;
        times.push(written.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "from a status to the network's table, {ROUNDS} times, a Service of {OTHERS} pods: \
         p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        at(50),
        at(99),
        at(100)
    );
    cluster.stop().await;
}

fn address(number: u32) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    IpAddr::from([10, 250, high, low])
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object)
        .await
        .expect("it is created");
}

/// A pod of the Service that is ready.
async fn pod(client: &Client, number: u32) {
    let pod = json!({
        "metadata": {"name": format!("bench-{number}"), "labels": {"app": "bench"}},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "localhost/none"}]},
    });
    create::<Pod>(&Api::default_namespaced(client.clone()), pod).await;
    set_ready(client, number, true).await;
}

async fn set_ready(client: &Client, number: u32, ready: bool) {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let status = if ready { "True" } else { "False" };
    let ip = address(number).to_string();
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": status}],
    }});
    pods.patch_status(
        &format!("bench-{number}"),
        &PatchParams::default(),
        &Patch::Merge(status),
    )
    .await
    .expect("it is written");
}

/// Looks until the name leads where it should.
async fn wait_for(cluster: &Cluster, wanted: impl Fn(&[IpAddr]) -> bool) {
    let names = cluster.fabric().names();
    let looking = async {
        while !wanted(&names.lookup(NAME).unwrap_or_default()) {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("the network follows");
}
