//! Controller and agent together, on an API server in memory and a network without Kubernetes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use vaquita_net::{
    Fabric, FabricConfig, PodNetwork, Protocol, ServiceKey, ServicePort, ServiceSpec,
};
use vaquita_reconcile::{Context, Options, testing::api::FakeApi};

use super::{workload::tests::deployment, *};

const DEPLOYMENTS: &str = "apis/apps/v1/deployments";
const PODS: &str = "api/v1/pods";
const SERVICES: &str = "api/v1/services";

struct World {
    api: FakeApi,
    /// The network of the node `here`, and those of all.
    fabric: Fabric,
    fabrics: BTreeMap<&'static str, Fabric>,
    pods: Vec<PodNetwork>,
    stop: CancellationToken,
}

fn status(n: i32) -> Value {
    json!({"observedGeneration": 3, "replicas": n, "updatedReplicas": n, "availableReplicas": n})
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    let version = "apps/v1";
    json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}])
}

impl World {
    /// A deployment of `count` pods that run, and a Service in front of them.
    fn new(annotations: &Value, count: usize) -> Self {
        Self::over(annotations, &vec!["here"; count])
    }

    /// The same with a pod on each of these nodes. Each node has a network of its own.
    fn over(annotations: &Value, nodes: &[&'static str]) -> Self {
        let api = FakeApi::new();
        let count = i32::try_from(nodes.len()).unwrap();
        let mut config = FabricConfig::default();
        // The other nodes are processes of the same machine.
        (
            config.outside.service_endpoints,
            config.outside.host_loopback,
        ) = (true, true);
        let names: BTreeSet<_> = nodes.iter().copied().chain(["here"]).collect();
        let fabrics: BTreeMap<_, _> = names
            .into_iter()
            .enumerate()
            .map(|(number, node)| {
                // No address is on two of them.
                config.own_cidr = format!("10.244.{number}.0/24").parse().ok();
                (node, Fabric::new(config.clone()).unwrap())
            })
            .collect();
        let fabric = fabrics["here"].clone();
        let mut web = serde_json::to_value(deployment(annotations, count, &status(count))).unwrap();
        web["apiVersion"] = "apps/v1".into();
        web["kind"] = "Deployment".into();
        api.put(DEPLOYMENTS, &web);
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
            "namespace": "shop", "name": "web-1", "uid": "set", "ownerReferences": owner("Deployment", "web", "uid"),
        }});
        api.put("apis/apps/v1/replicasets", &set);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {
            "namespace": "shop", "name": "web", "uid": "service",
        }, "spec": {"selector": {"app": "web"}}});
        api.put(SERVICES, &service);
        let mut pods = Vec::new();
        for (n, node) in nodes.iter().enumerate() {
            let pod = fabrics[node].attach(None).unwrap();
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
                "namespace": "shop", "name": format!("web-1-{n}"), "uid": format!("pod-{n}"),
                "ownerReferences": owner("ReplicaSet", "web-1", "set"),
            }, "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running", "podIP": pod.ip().to_string()}});
            api.put(PODS, &object);
            pods.push(pod);
        }
        let stop = CancellationToken::new();
        let context = Context::new(api.client(), Options::default(), stop.clone());
        tokio::spawn(run_controller(context));
        for (node, fabric) in &fabrics {
            tokio::spawn(Agent::new(api.client(), *node, fabric.clone()).run(stop.clone()));
        }
        Self {
            api,
            fabric,
            fabrics,
            pods,
            stop,
        }
    }

    fn deployment(&self) -> Value {
        self.api.object(DEPLOYMENTS, "shop", "web").unwrap()
    }

    fn replicas(&self) -> i64 {
        self.deployment()["spec"]["replicas"].as_i64().unwrap()
    }

    fn annotation(&self, path: &str, name: &str, annotation: &str) -> Value {
        let object = self.api.object(path, "shop", name).unwrap();
        object["metadata"]["annotations"][annotation].clone()
    }

    fn reasons(&self) -> Vec<String> {
        let events = self.api.objects("api/v1/events");
        let mut reasons: Vec<_> = events
            .iter()
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect();
        reasons.sort_unstable();
        reasons
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_goes_to_sleep() {
    let world = World::new(&json!({IDLE: "30s"}), 2);
    pass(20).await;
    assert_eq!(world.replicas(), 2);
    assert_eq!(world.annotation(PODS, "web-1-0", IDLE), "30s");
    assert_eq!(world.annotation(SERVICES, "web", WAKES), "deployments/web");
    pass(15).await;
    assert_eq!(world.replicas(), 0);
    assert_eq!(world.annotation(DEPLOYMENTS, "web", REPLICAS), "2");
    assert_eq!(world.reasons(), ["ScaledToZero"]);
    assert_eq!(world.annotation(SERVICES, "web", WAKES), "deployments/web");
}

#[tokio::test(start_paused = true)]
async fn one_busy_pod_keeps_all_awake() {
    let world = World::new(&json!({IDLE: "30s"}), 2);
    let at = SocketAddr::new(world.pods[1].ip(), 80);
    let listener = world.pods[1].listen(at).unwrap();
    pass(10).await;
    let near = world.fabric.dial(at).await.unwrap();
    let far = listener.accept().await.unwrap();
    pass(300).await;
    assert_eq!(world.replicas(), 2);
    assert!(world.annotation(PODS, "web-1-0", IDLE_SINCE).is_string());
    assert!(world.annotation(PODS, "web-1-1", IDLE_SINCE).is_null());
    // Somebody comes to the one that was idle: it no longer is.
    let other = SocketAddr::new(world.pods[0].ip(), 80);
    let other_listener = world.pods[0].listen(other).unwrap();
    let second = world.fabric.dial(other).await.unwrap();
    drop((second, other_listener.accept().await.unwrap()));
    pass(1).await;
    assert!(world.annotation(PODS, "web-1-0", IDLE_SINCE).is_null());
    drop((near, far));
    pass(29).await;
    assert_eq!(world.replicas(), 2);
    pass(32).await;
    assert_eq!(world.replicas(), 0);
}

/// The Service of the workload, as the network knows it.
fn key() -> ServiceKey {
    ServiceKey {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
    }
}

fn spec(endpoints: Vec<SocketAddr>) -> ServiceSpec {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        endpoints,
        outside_endpoints: None,
    };
    ServiceSpec {
        cluster_ips: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![port],
        wakes: true,
        ..ServiceSpec::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_any_node_needs_stays_awake() {
    let world = World::over(&json!({IDLE: "30s"}), &["here", "there"]);
    let at = SocketAddr::new(world.pods[1].ip(), 80);
    let listener = world.pods[1].listen(at).unwrap();
    pass(10).await;
    let near = world.fabrics["there"].dial(at).await.unwrap();
    let far = listener.accept().await.unwrap();
    pass(300).await;
    assert_eq!(world.replicas(), 2);
    assert!(world.annotation(PODS, "web-1-0", IDLE_SINCE).is_string());
    assert!(world.annotation(PODS, "web-1-1", IDLE_SINCE).is_null());
    drop((near, far));
    pass(35).await;
    assert_eq!(world.replicas(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connect_is_held_where_it_came_and_answered_where_the_pod_is() {
    let world = World::over(&json!({IDLE: "5s", REPLICAS: "1"}), &[]);
    pass(1).await;
    let services = world.fabric.services();
    assert!(services.set(&key(), &spec(Vec::new())).is_empty());
    let held = tokio::spawn(world.fabric.dial("10.96.0.7:80".parse().unwrap()));
    let is_awake = |_: &FakeApi| world.replicas() == 1;
    world.api.until("it is scaled back", is_awake).await;
    // The pod is on another machine, which this one reaches by the host's network.
    tokio::time::resume();
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = elsewhere.local_addr().unwrap();
    assert!(services.set(&key(), &spec(vec![at])).is_empty());
    let (mut arrived, _) = elsewhere.accept().await.unwrap();
    arrived.write_all(b"here I am").await.unwrap();
    drop(arrived);
    let mut answer = String::new();
    let mut held = held.await.unwrap().unwrap();
    held.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "here I am");
}

#[tokio::test(start_paused = true)]
async fn a_held_connect_wakes_what_is_behind_its_service() {
    let world = World::new(&json!({IDLE: "5s", REPLICAS: "3"}), 0);
    let key = key();
    pass(1).await;
    assert!(
        world
            .fabric
            .services()
            .set(&key, &spec(Vec::new()))
            .is_empty()
    );
    let held = tokio::spawn(world.fabric.dial("10.96.0.7:80".parse().unwrap()));
    world
        .api
        .until("it is scaled back", |_| world.replicas() == 3)
        .await;
    let pod = world.fabric.attach(None).unwrap();
    let at = SocketAddr::new(pod.ip(), 80);
    let _listener = pod.listen(at).unwrap();
    assert!(
        world
            .fabric
            .services()
            .set(&key, &spec(vec![at]))
            .is_empty()
    );
    held.await.unwrap().unwrap();
    pass(1).await;
    assert!(world.annotation(DEPLOYMENTS, "web", REPLICAS).is_null());
    assert_eq!(world.reasons(), ["Awake"]);
    world.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn people_decide() {
    // Scaled to zero by hand: off, not asleep.
    let world = World::new(&json!({IDLE: "5s"}), 1);
    world.api.edit(DEPLOYMENTS, "shop", "web", |web| {
        web["spec"]["replicas"] = 0.into();
    });
    world.api.remove(PODS, "shop", "web-1-0");
    pass(10).await;
    assert!(world.annotation(SERVICES, "web", WAKES).is_null());
    assert!(world.annotation(DEPLOYMENTS, "web", REPLICAS).is_null());

    // Asleep, and no longer to take part: it is woken.
    let world = World::new(&json!({IDLE: "5s", REPLICAS: "2"}), 0);
    pass(10).await;
    assert_eq!(world.replicas(), 0);
    world.api.edit(DEPLOYMENTS, "shop", "web", |web| {
        web["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove(IDLE);
    });
    pass(1).await;
    assert_eq!(world.replicas(), 2);
    assert!(world.annotation(SERVICES, "web", WAKES).is_null());
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_none_is_an_event() {
    let world = World::new(&json!({IDLE: "soon"}), 1);
    pass(100).await;
    assert_eq!(world.replicas(), 1);
    assert!(world.annotation(PODS, "web-1-0", IDLE).is_null());
    let events = world.api.objects("api/v1/events");
    assert_eq!(events[0]["reason"], "InvalidScaleToZero");
    assert_eq!(
        events[0]["message"],
        "annotation vaquita.dev/scale-to-zero: \"soon\" is not a duration such as 30s or 5m"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_sleeps_during_a_rollout() {
    let world = World::new(&json!({IDLE: "5s"}), 1);
    world.api.edit(DEPLOYMENTS, "shop", "web", |web| {
        web["metadata"]["generation"] = 4.into();
    });
    pass(100).await;
    assert_eq!(world.replicas(), 1);
    world.api.edit(DEPLOYMENTS, "shop", "web", |web| {
        web["status"]["observedGeneration"] = 4.into();
    });
    pass(1).await;
    assert_eq!(world.replicas(), 0);
}
