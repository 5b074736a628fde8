//! Where pods go and why they do not, as people see it with stock `kubectl`: messages, room made for the more important,
//! company that is wanted or not, claims, gates, profiles from a file.

use std::fs;

use serde_json::Value;

use crate::harness::{Vaquita, command, eventually, list, run};

fn cluster() -> Vaquita {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster
}

/// A pod with more lines in its specification, each at its start.
fn pod(name: &str, spec: &str) -> String {
    let spec = spec
        .lines()
        .fold(String::new(), |all, line| all + "  " + line + "\n");
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
{spec}"
    )
}

/// The specification of a container with requests such as `{cpu: 1}`.
fn container(requests: &str) -> String {
    format!(
        "containers: [{{name: main, image: localhost/hello:v1, resources: {{requests: {requests}}}}}]"
    )
}

/// Waits until the pod's condition `PodScheduled` has this reason, and returns its message.
fn held_up(cluster: &Vaquita, pod: &str, reason: &str) -> String {
    eventually(&format!("{pod} is held up as {reason}"), || {
        let pod = cluster.get(&["pod", pod]);
        let conditions = list(&pod["status"]["conditions"]);
        let it = conditions.iter().find(|it| it["type"] == "PodScheduled");
        it.filter(|it| it["status"] == "False" && it["reason"] == reason)
            .map(|it| it["message"].as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| format!("{conditions:?}"))
    })
}

fn runs(cluster: &Vaquita, pod: &str) -> Value {
    eventually(&format!("{pod} runs"), || {
        let pod = cluster.get(&["pod", pod]);
        if pod["status"]["phase"] == "Running" {
            Ok(pod)
        } else {
            Err(pod["status"].to_string())
        }
    })
}

/// The CPU of the only node, in millicores.
fn node_cpu(cluster: &Vaquita) -> u64 {
    let nodes = cluster.get(&["nodes"]);
    let cpu = nodes["items"][0]["status"]["allocatable"]["cpu"].clone();
    let cpu = cpu.as_str().expect("a quantity");
    match cpu.strip_suffix('m') {
        Some(milli) => milli.parse().expect("a number"),
        None => cpu.parse::<u64>().expect("a number") * 1000,
    }
}

#[test]
fn a_pod_that_fits_nowhere_says_why_and_goes_when_it_can() {
    let cluster = cluster();
    let nodes = cluster.get(&["nodes"]);
    let node = nodes["items"][0]["metadata"]["name"]
        .as_str()
        .expect("a name");
    let small = container("{cpu: 1m}");
    cluster.apply(&pod(
        "picky",
        &format!("nodeSelector: {{disk: fast}}\n{small}"),
    ));
    assert_eq!(
        held_up(&cluster, "picky", "Unschedulable"),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    eventually("an event says so", || {
        let said = cluster.kubectl(&["describe", "pod", "picky"]);
        said.contains("FailedScheduling").then_some(()).ok_or(said)
    });
    cluster.kubectl(&["label", "node", node, "disk=fast"]);
    runs(&cluster, "picky");

    cluster.kubectl(&["cordon", node]);
    cluster.apply(&pod("late", &small));
    let message = held_up(&cluster, "late", "Unschedulable");
    assert!(
        message.contains("1 node(s) were unschedulable"),
        "{message}"
    );
    cluster.kubectl(&["uncordon", node]);
    runs(&cluster, "late");

    cluster.kubectl(&["taint", "node", node, "team=a:NoSchedule"]);
    cluster.apply(&pod("stranger", &small));
    let message = held_up(&cluster, "stranger", "Unschedulable");
    assert!(
        message.contains("1 node(s) had untolerated taint(s)"),
        "{message}"
    );
    let tolerant = format!("tolerations: [{{key: team, operator: Exists}}]\n{small}");
    cluster.apply(&pod("member", &tolerant));
    runs(&cluster, "member");
}

#[test]
fn a_more_important_pod_gets_the_room_of_a_less_important_one() {
    let cluster = cluster();
    let most = container(&format!("{{cpu: {}m}}", node_cpu(&cluster) * 3 / 4));
    cluster.apply(
        "apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: polite}
value: 2000
preemptionPolicy: Never
",
    );
    cluster.apply(&pod("low", &most));
    runs(&cluster, "low");
    cluster.apply(&pod(
        "polite",
        &format!("priorityClassName: polite\n{most}"),
    ));
    let message = held_up(&cluster, "polite", "Unschedulable");
    assert!(
        message.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
        "{message}"
    );
    cluster.kubectl(&["delete", "pod", "polite", "--now"]);
    cluster.apply(&pod("high", &format!("priorityClassName: high\n{most}")));
    runs(&cluster, "high");
    let left = cluster.try_kubectl(&["get", "pod", "low"]);
    assert!(!left.status.success(), "{}", left.stdout);
    let events = cluster.kubectl(&["get", "events", "--field-selector", "reason=Preempted"]);
    assert!(events.contains("pod/low"), "{events}");
}

#[test]
fn pods_that_must_be_apart_wait_for_each_other_to_go() {
    let cluster = cluster();
    let apart = format!(
        "affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector: {{matchExpressions: [{{key: app, operator: In, values: [one, two]}}]}}
{}",
        container("{cpu: 1m}")
    );
    cluster.apply(&pod("one", &apart));
    runs(&cluster, "one");
    cluster.apply(&pod("two", &apart));
    let message = held_up(&cluster, "two", "Unschedulable");
    assert!(
        message.starts_with(
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
        ),
        "{message}"
    );
    cluster.kubectl(&["delete", "pod", "one", "--now"]);
    runs(&cluster, "two");
}

#[test]
fn gates_and_claims_hold_pods_up() {
    let cluster = cluster();
    let small = container("{cpu: 1m}");
    cluster.apply(&pod(
        "gated",
        &format!("schedulingGates: [{{name: example.com/wait}}]\n{small}"),
    ));
    held_up(&cluster, "gated", "SchedulingGated");
    let table = cluster.kubectl(&["get", "pod", "gated"]);
    assert!(table.contains("SchedulingGated"), "{table}");
    let open = r#"{"spec": {"schedulingGates": null}}"#;
    cluster.kubectl(&["patch", "pod", "gated", "--type=merge", "-p", open]);
    runs(&cluster, "gated");

    let volume = "volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]";
    cluster.apply(&pod("stored", &format!("{volume}\n{small}")));
    let message = held_up(&cluster, "stored", "Unschedulable");
    assert!(
        message.starts_with("0/1 nodes are available: persistentvolumeclaim \"data\" not found."),
        "{message}"
    );
}

#[test]
fn profiles_come_from_a_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("scheduler.yaml");
    let path_text = path.to_str().expect("a path");
    let configuration = |profile: &str| {
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{{schedulerName: default-scheduler}}, {profile}]
"
        )
    };
    let bad =
        configuration("{schedulerName: packing, plugins: {score: {enabled: [{name: Mine}]}}}");
    fs::write(&path, bad).expect("written");
    let refused = run(command(dir.path()).args(["--scheduler-config", path_text]));
    assert!(!refused.status.success());
    assert!(
        refused
            .stderr
            .contains("\"Mine\" is not a plugin of this scheduler"),
        "{}",
        refused.stderr
    );

    let strategy = "{scoringStrategy: {type: MostAllocated}}";
    let good = format!(
        "{{schedulerName: packing, pluginConfig: [{{name: NodeResourcesFit, args: {strategy}}}]}}"
    );
    fs::write(&path, configuration(&good)).expect("written");
    let cluster = Vaquita::up_with(&["--scheduler-config", path_text]);
    cluster.load_guest("hello", "localhost/hello:v1");
    let small = container("{cpu: 1m}");
    cluster.apply(&pod("packed", &format!("schedulerName: packing\n{small}")));
    cluster.apply(&pod("foreign", &format!("schedulerName: nobody\n{small}")));
    runs(&cluster, "packed");
    let events = cluster.get(&["events", "--field-selector", "reason=Scheduled"]);
    let by = &events["items"][0]["source"]["component"];
    assert_eq!(by, "packing");
    assert_eq!(
        cluster.get(&["pod", "foreign"])["spec"]["nodeName"],
        Value::Null
    );
}

/// A node of somebody else's with one device, and how to claim it.
const DEVICES: &str = "apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu}
spec: {selectors: [{cel: {expression: 'device.driver == \"gpu.example.com\"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu
          selectors:
          - cel: {expression: 'device.capacity[\"gpu.example.com\"].memory.compareTo(quantity(\"10Gi\")) >= 0'}
---
apiVersion: v1
kind: Node
metadata: {name: elsewhere, labels: {vaquita.dev/wasm: 'true'}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: elsewhere-gpus}
spec:
  driver: gpu.example.com
  nodeName: elsewhere
  pool: {name: elsewhere, generation: 1, resourceSliceCount: 1}
  devices: [{name: gpu-0, capacity: {memory: {value: 16Gi}}}]
";
const STATUS: &str = r#"{"status": {
  "capacity": {"cpu": "4", "memory": "4Gi", "pods": "10"},
  "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"},
  "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
}}"#;

#[test]
fn a_claimed_device_is_had_by_one_pod_after_the_other() {
    let cluster = Vaquita::up();
    let claiming = |name: &str| {
        let claims = "resourceClaims: [{name: gpu, resourceClaimTemplateName: gpu}]";
        pod(name, &format!("{claims}\n{}", container("{cpu: 1m}")))
    };
    cluster.apply(DEVICES);
    let status = ["--subresource=status", "--type=merge", "-p", STATUS];
    cluster.kubectl(&[&["patch", "node", "elsewhere"][..], &status[..]].concat());
    cluster.apply(&claiming("first"));
    let is_on = |pod: &str| {
        eventually(&format!("{pod} has a node"), || {
            let pod = cluster.get(&["pod", pod]);
            let on = pod["spec"]["nodeName"].as_str().map(str::to_owned);
            on.ok_or_else(|| pod["status"].to_string())
        })
    };
    assert_eq!(is_on("first"), "elsewhere");
    let table = cluster.kubectl(&["get", "resourceclaims"]);
    assert!(table.contains("allocated,reserved"), "{table}");
    cluster.apply(&claiming("second"));
    eventually("there is no other device", || {
        let message = held_up(&cluster, "second", "Unschedulable");
        let told = message.contains("2 cannot allocate all claims");
        told.then_some(()).ok_or(message)
    });
    // Its node says nothing, so nobody else would say that it is gone.
    cluster.kubectl(&["delete", "pod", "first", "--force", "--grace-period=0"]);
    assert_eq!(is_on("second"), "elsewhere");
    eventually("the first claim is gone", || {
        let claims = cluster.get(&["resourceclaims"]);
        let count = list(&claims["items"]).len();
        (count == 1).then_some(()).ok_or_else(|| claims.to_string())
    });
}
