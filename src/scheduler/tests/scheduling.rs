//! The scheduler at work on a real API server in memory.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{Event, Node, Pod, PodCondition},
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use vaquita_apiserver::{ApiServer, Config, User};
use vaquita_scheduler::Options;

/// A cluster of nothing but an API server and a scheduler.
struct Cluster {
    client: Client,
    stop: CancellationToken,
    _api: ApiServer,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Self {
        let api = ApiServer::start(Arc::new(vaquita_store::memory()), Config::default())
            .await
            .unwrap();
        let router = api.router();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let mut request = request.map(axum::body::Body::new);
            request
                .extensions_mut()
                .insert(User::in_process("system:admin"));
            router.clone().oneshot(request)
        });
        let client = Client::new(service, "default");
        let stop = CancellationToken::new();
        tokio::spawn(vaquita_scheduler::run(
            client.clone(),
            options,
            stop.clone(),
        ));
        Self {
            client,
            stop,
            _api: api,
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn add_node(&self, name: &str, cpu: &str, pods: u32) {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        self.nodes()
            .create(&PostParams::default(), &node)
            .await
            .unwrap();
        let amounts = json!({ "cpu": cpu, "memory": "64Gi", "pods": pods.to_string() });
        let status = json!({ "status": { "capacity": amounts, "allocatable": amounts } });
        self.nodes()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    async fn add_pod(&self, name: &str, spec: Value) {
        let mut whole = json!({ "containers": [{ "name": "main", "image": "x" }] });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let pod = json!({ "metadata": { "name": name }, "spec": whole });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    /// Waits until `holds` does of the pod, and returns the pod.
    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let pod = self.pods().get(name).await.unwrap();
            if holds(&pod) {
                return pod;
            }
            assert!(
                Instant::now() < deadline,
                "{name} never {what}: {:#?}",
                pod.status
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_bound(&self, name: &str) -> String {
        let pod = self
            .until(name, "was bound", |pod| node_of(pod).is_some())
            .await;
        node_of(&pod).unwrap()
    }

    async fn until_given_up(&self, name: &str) -> PodCondition {
        let pod = self
            .until(name, "was given up", |pod| {
                scheduled(pod).is_some_and(|it| it.status == "False")
            })
            .await;
        scheduled(&pod).unwrap()
    }

    /// Waits for an event with this reason about a pod, and returns what it says.
    async fn until_event(&self, pod: &str, reason: &str) -> String {
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let all = events.list(&ListParams::default()).await.unwrap();
            let is_it = |event: &&Event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.name.as_deref() == Some(pod)
            };
            if let Some(event) = all.items.iter().find(is_it) {
                return event.message.clone().unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "no event {reason} about {pod}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn scheduled(pod: &Pod) -> Option<PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled")
        .cloned()
}

fn asking_for(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "main", "image": "x", "resources": { "requests": { "cpu": cpu } } }] })
}

#[tokio::test]
async fn equal_pods_spread_over_equal_nodes() {
    let cluster = Cluster::start().await;
    for node in ["a", "b", "c"] {
        cluster.add_node(node, "4", 10).await;
    }
    let mut on_node = BTreeMap::<String, u32>::new();
    for number in 0..9 {
        cluster.add_pod(&format!("p{number}"), json!({})).await;
    }
    for number in 0..9 {
        *on_node
            .entry(cluster.until_bound(&format!("p{number}")).await)
            .or_default() += 1;
    }
    assert_eq!(
        on_node,
        BTreeMap::from([
            ("a".to_owned(), 3),
            ("b".to_owned(), 3),
            ("c".to_owned(), 3)
        ])
    );
    let pod = cluster
        .until("p0", "was scheduled", |pod| scheduled(pod).is_some())
        .await;
    assert_eq!(scheduled(&pod).unwrap().status, "True");
    let message = cluster.until_event("p0", "Scheduled").await;
    assert_eq!(
        message,
        format!(
            "Successfully assigned default/p0 to {}",
            node_of(&pod).unwrap()
        )
    );
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.add_node("small", "2", 10).await;
    cluster.add_pod("first", asking_for("1500m")).await;
    cluster.until_bound("first").await;
    cluster.add_pod("second", asking_for("1")).await;
    let condition = cluster.until_given_up("second").await;
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    assert_eq!(
        condition.message.as_deref(),
        Some(
            "0/1 nodes are available: 1 Insufficient cpu. \
             preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
    );
    let event = cluster.until_event("second", "FailedScheduling").await;
    assert_eq!(Some(event), condition.message);
    cluster
        .pods()
        .delete("first", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(cluster.until_bound("second").await, "small");
}

#[tokio::test]
async fn cordons_taints_and_selectors_decide() {
    let cluster = Cluster::start().await;
    cluster.add_node("plain", "4", 10).await;
    cluster.add_node("special", "4", 10).await;
    let special = json!({
        "metadata": { "labels": { "disk": "fast" } },
        "spec": { "taints": [{ "key": "team", "value": "a", "effect": "NoSchedule" }] },
    });
    cluster
        .nodes()
        .patch("special", &PatchParams::default(), &Patch::Merge(special))
        .await
        .unwrap();
    let tolerations = json!([{ "key": "team", "operator": "Exists" }]);
    cluster
        .add_pod(
            "picky",
            json!({ "nodeSelector": { "disk": "fast" }, "tolerations": tolerations }),
        )
        .await;
    assert_eq!(cluster.until_bound("picky").await, "special");
    cluster
        .add_pod("unwelcome", json!({ "nodeSelector": { "disk": "fast" } }))
        .await;
    let message = cluster.until_given_up("unwelcome").await.message.unwrap();
    assert!(
        message.contains("1 node(s) had untolerated taint(s)"),
        "{message}"
    );
    assert!(
        message.contains("1 node(s) didn't match Pod's node affinity/selector"),
        "{message}"
    );

    let cordon = json!({ "spec": { "unschedulable": true } });
    cluster
        .nodes()
        .patch("plain", &PatchParams::default(), &Patch::Merge(cordon))
        .await
        .unwrap();
    cluster.add_pod("late", json!({})).await;
    cluster.until_given_up("late").await;
    let open = json!({ "spec": { "unschedulable": null } });
    cluster
        .nodes()
        .patch("plain", &PatchParams::default(), &Patch::Merge(open))
        .await
        .unwrap();
    assert_eq!(cluster.until_bound("late").await, "plain");
}

#[tokio::test]
async fn pods_of_other_schedulers_and_gated_pods_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "4", 10).await;
    cluster
        .add_pod("foreign", json!({ "schedulerName": "another" }))
        .await;
    cluster
        .add_pod("gated", json!({ "schedulingGates": [{ "name": "wait" }] }))
        .await;
    cluster.add_pod("ours", json!({})).await;
    cluster.until_bound("ours").await;
    for name in ["foreign", "gated"] {
        assert_eq!(node_of(&cluster.pods().get(name).await.unwrap()), None);
    }
    let open = json!({ "spec": { "schedulingGates": null } });
    cluster
        .pods()
        .patch("gated", &PatchParams::default(), &Patch::Merge(open))
        .await
        .unwrap();
    cluster.until_bound("gated").await;
}

#[tokio::test]
async fn a_node_never_holds_more_than_it_has() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "4", 100).await;
    cluster.add_node("b", "4", 7).await;
    for number in 0..40 {
        cluster
            .add_pod(&format!("p{number}"), asking_for("500m"))
            .await;
    }
    for number in 0..40 {
        let settled = |pod: &Pod| {
            node_of(pod).is_some() || scheduled(pod).is_some_and(|it| it.status == "False")
        };
        cluster
            .until(&format!("p{number}"), "was settled", settled)
            .await;
    }
    let pods = cluster.pods().list(&ListParams::default()).await.unwrap();
    let on = |node: &str| {
        pods.iter()
            .filter(|pod| node_of(pod).as_deref() == Some(node))
            .count()
    };
    assert_eq!(
        (on("a"), on("b")),
        (8, 7),
        "{:?}",
        pods.iter()
            .map(kube::ResourceExt::name_any)
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_more_important_pod_makes_room_for_itself() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "4", 10).await;
    let class: k8s_openapi::api::scheduling::v1::PriorityClass =
        serde_json::from_value(json!({"metadata": {"name": "high"}, "value": 1000})).unwrap();
    Api::all(cluster.client.clone())
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    cluster.add_pod("low", asking_for("3")).await;
    cluster.until_bound("low").await;
    let mut important = asking_for("2");
    important["priorityClassName"] = "high".into();
    cluster.add_pod("high", important).await;
    let nominated = |pod: &Pod| {
        let status = pod.status.as_ref();
        status
            .and_then(|status| status.nominated_node_name.clone())
            .as_deref()
            == Some("a")
    };
    cluster.until("high", "was nominated", nominated).await;
    let going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let victim = cluster.until("low", "was sent away", going).await;
    let conditions = victim.status.unwrap().conditions.unwrap();
    let disruption = conditions
        .iter()
        .find(|it| it.type_ == "DisruptionTarget")
        .unwrap();
    assert_eq!(disruption.reason.as_deref(), Some("PreemptionByScheduler"));
    let message = cluster.until_event("low", "Preempted").await;
    assert!(message.ends_with("on node a"), "{message}");
    // What the node does once the pod has ended.
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("low", &now).await.unwrap();
    assert_eq!(cluster.until_bound("high").await, "a");
}

#[tokio::test]
async fn profiles_take_the_pods_that_name_them() {
    let options = Options::from_configuration(
        "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}]}}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}
",
    );
    let cluster = Cluster::start_with(options.unwrap()).await;
    for node in ["a", "b", "c"] {
        cluster.add_node(node, "4", 10).await;
    }
    let packed = |cpu: &str| {
        let mut spec = asking_for(cpu);
        spec["schedulerName"] = "packing".into();
        spec
    };
    cluster.add_pod("first", packed("1")).await;
    let node = cluster.until_bound("first").await;
    for name in ["second", "third"] {
        cluster.add_pod(name, packed("1")).await;
        assert_eq!(cluster.until_bound(name).await, node);
    }
}

#[tokio::test]
async fn a_pod_waits_for_its_claim_and_for_those_it_must_be_with() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "4", 10).await;
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
    cluster
        .add_pod("stored", json!({"volumes": [volume]}))
        .await;
    let message = cluster.until_given_up("stored").await.message.unwrap();
    assert_eq!(
        message,
        "0/1 nodes are available: persistentvolumeclaim \"data\" not found. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}});
    let affinity =
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let hostname = json!({"metadata": {"labels": {"kubernetes.io/hostname": "a"}}});
    cluster
        .nodes()
        .patch("a", &PatchParams::default(), &Patch::Merge(hostname))
        .await
        .unwrap();
    cluster
        .add_pod("follower", json!({"affinity": affinity}))
        .await;
    cluster.until_given_up("follower").await;
    let leader: Pod = serde_json::from_value(json!({
        "metadata": {"name": "leader", "labels": {"app": "db"}},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }))
    .unwrap();
    cluster
        .pods()
        .create(&PostParams::default(), &leader)
        .await
        .unwrap();
    assert_eq!(cluster.until_bound("follower").await, "a");
}

/// Says how fast that went; for a figure, raise the number of pods and run it with `--release -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_is_bound_as_soon_as_nodes_open() {
    const PODS: usize = 300;
    let cluster = Cluster::start().await;
    let cordoned = json!({ "spec": { "unschedulable": true } });
    for number in 0..50 {
        let name = format!("n{number}");
        cluster.add_node(&name, "64", 1000).await;
        cluster
            .nodes()
            .patch(&name, &PatchParams::default(), &Patch::Merge(&cordoned))
            .await
            .unwrap();
    }
    for number in 0..PODS {
        cluster
            .add_pod(&format!("p{number}"), asking_for("10m"))
            .await;
    }
    // All have been looked at in vain, and their back-off is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let start = Instant::now();
    let open = json!({ "spec": { "unschedulable": null } });
    for number in 0..50 {
        cluster
            .nodes()
            .patch(
                &format!("n{number}"),
                &PatchParams::default(),
                &Patch::Merge(&open),
            )
            .await
            .unwrap();
    }
    loop {
        let waiting = ListParams::default().fields("spec.nodeName=").limit(1);
        if cluster
            .pods()
            .list(&waiting)
            .await
            .unwrap()
            .items
            .is_empty()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = PODS as f64 / seconds;
    println!("{PODS} pods over 50 nodes in {seconds:.2} s: {rate:.0} pods/s");
}

impl Cluster {
    async fn make<K>(&self, api: Api<K>, object: Value)
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    fn claims(&self) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn add_gpus(&self, node: &str, names: &[&str]) {
        let devices: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        let slice = json!({
            "metadata": { "name": format!("{node}-gpus") },
            "spec": {
                "driver": "gpu.example.com", "nodeName": node, "devices": devices,
                "pool": { "name": node, "generation": 1, "resourceSliceCount": 1 },
            },
        });
        self.make(Api::<ResourceSlice>::all(self.client.clone()), slice)
            .await;
    }
}

#[tokio::test]
async fn pods_get_the_devices_that_they_claim() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "4", 10).await;
    cluster.add_node("b", "4", 10).await;
    let class = json!({ "metadata": { "name": "gpu" }, "spec": {} });
    cluster
        .make(Api::<DeviceClass>::all(cluster.client.clone()), class)
        .await;
    let asking =
        |claim: &str| json!({ "resourceClaims": [{ "name": "gpu", "resourceClaimName": claim }] });
    cluster.add_pod("first", asking("shared")).await;
    let waits = cluster.until_given_up("first").await;
    assert_eq!(
        waits.message.as_deref(),
        Some(
            "0/2 nodes are available: resourceclaim.resource.k8s.io \"shared\" not found. preemption: 0/2 nodes are \
             available: 2 Preemption is not helpful for scheduling."
        )
    );
    for name in ["shared", "own"] {
        let requests = json!([{ "name": "gpu", "exactly": { "deviceClassName": "gpu" } }]);
        let claim = json!({ "metadata": { "name": name }, "spec": { "devices": { "requests": requests } } });
        cluster.make(cluster.claims(), claim).await;
    }
    cluster
        .until("first", "said that there is no device", |pod| {
            let message = scheduled(pod).and_then(|it| it.message);
            message.is_some_and(|it| it.contains("2 cannot allocate all claims"))
        })
        .await;
    cluster.add_gpus("b", &["gpu-0"]).await;
    assert_eq!(cluster.until_bound("first").await, "b");
    // Another pod with the same claim follows it; one that wants a device for itself waits.
    cluster.add_pod("second", asking("shared")).await;
    assert_eq!(cluster.until_bound("second").await, "b");
    let claim = cluster.claims().get("shared").await.unwrap();
    let status = claim.status.unwrap();
    let consumers: Vec<_> = status
        .reserved_for
        .iter()
        .flatten()
        .map(|it| &*it.name)
        .collect();
    assert_eq!(consumers, ["first", "second"]);
    let allocation = status.allocation.unwrap().devices.unwrap();
    assert_eq!(allocation.results.unwrap()[0].device, "gpu-0");
    let finalizers = claim.metadata.finalizers.unwrap();
    assert_eq!(finalizers, ["resource.kubernetes.io/delete-protection"]);
    cluster.add_pod("third", asking("own")).await;
    cluster.until_given_up("third").await;
    cluster.add_gpus("a", &["gpu-0"]).await;
    assert_eq!(cluster.until_bound("third").await, "a");
}

#[tokio::test]
async fn a_claim_is_given_back_where_its_pod_has_no_room() {
    let cluster = Cluster::start().await;
    cluster.add_node("full", "1", 10).await;
    cluster.add_pod("there", asking_for("1")).await;
    cluster.until_bound("there").await;
    cluster.add_node("roomy", "4", 10).await;
    let class = json!({ "metadata": { "name": "gpu" }, "spec": {} });
    cluster
        .make(Api::<DeviceClass>::all(cluster.client.clone()), class)
        .await;
    let requests = json!([{ "name": "gpu", "exactly": { "deviceClassName": "gpu" } }]);
    let claim =
        json!({ "metadata": { "name": "c" }, "spec": { "devices": { "requests": requests } } });
    cluster.make(cluster.claims(), claim).await;
    cluster.add_gpus("full", &["gpu-0"]).await;
    cluster.add_gpus("roomy", &["gpu-0"]).await;
    // As if this process had been stopped between giving the device and binding the pod, and the room went meanwhile.
    let result =
        json!({ "request": "gpu", "driver": "gpu.example.com", "pool": "full", "device": "gpu-0" });
    let only = json!({ "key": "metadata.name", "operator": "In", "values": ["full"] });
    let status = json!({ "status": { "allocation": {
        "devices": { "results": [result] },
        "nodeSelector": { "nodeSelectorTerms": [{ "matchFields": [only] }] },
    } } });
    cluster
        .claims()
        .patch_status("c", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let mut pod = asking_for("1");
    pod["resourceClaims"] = json!([{ "name": "gpu", "resourceClaimName": "c" }]);
    cluster.add_pod("late", pod).await;
    assert_eq!(cluster.until_bound("late").await, "roomy");
    let claim = cluster.claims().get("c").await.unwrap();
    let allocation = claim.status.unwrap().allocation.unwrap();
    let results = allocation.devices.unwrap().results.unwrap();
    assert_eq!(results[0].pool, "roomy");
}
