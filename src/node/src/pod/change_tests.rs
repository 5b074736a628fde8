//! What changes while pods run: their resources; and who starts again by rules of its own.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use vaquita_backends::Resources;

use super::Worker;
use crate::testing::{Bench, Order, container, pod};

fn run(bench: &Bench) -> JoinHandle<()> {
    let worker = Worker::new(bench.context.clone(), bench.api.feed.subscribe(), None);
    tokio::spawn(worker.run())
}

fn sized(cpu: &str, memory: &str) -> Value {
    json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}})
}

fn resizable(cpu: &str, memory: &str) -> Value {
    let mut container = container("a");
    container["resources"] = sized(cpu, memory);
    container["resizePolicy"] = json!([
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "NotRequired"},
    ]);
    container
}

fn condition<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    let mut conditions = status["conditions"].as_array()?.iter();
    conditions.find(|one| one["type"] == type_)
}

fn has(status: &Value, resources: &Value) -> bool {
    let container = &status["containerStatuses"][0];
    container["resources"] == *resources && container["allocatedResources"] == resources["requests"]
}

fn resize(bench: &Bench, cpu: &str, memory: &str) {
    bench
        .api
        .change(|pod| pod["spec"]["containers"][0]["resources"] = sized(cpu, memory));
}

#[tokio::test(start_paused = true)]
async fn a_container_is_given_more_while_it_runs() {
    let mut bench = Bench::new(pod("Always", json!([resizable("100m", "4Mi")])));
    let _worker = run(&bench);
    let mut a = bench.started("a").await;
    let small = sized("100m", "4Mi");
    bench
        .api
        .wait("what it has", |status| has(status, &small))
        .await;
    resize(&bench, "200m", "8Mi");
    let more = Resources {
        memory_limit: Some(8 << 20),
        cpu_limit: Some(200),
        cpu_request: Some(200),
    };
    assert_eq!(a.order().await, Order::Resize(more));
    let large = sized("200m", "8Mi");
    let status = bench
        .api
        .wait("more of it", |status| has(status, &large))
        .await;
    assert_eq!(condition(&status, "PodResizeInProgress"), None);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    let events: Vec<_> = bench
        .events()
        .into_iter()
        .map(|(reason, _)| reason)
        .collect();
    assert!(
        events.ends_with(&["ResizeStarted", "ResizeCompleted"]),
        "{events:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_node_does_not_have_is_not_given() {
    let mut bench = Bench::new(pod("Always", json!([resizable("100m", "4Mi")])));
    let _worker = run(&bench);
    let mut a = bench.started("a").await;
    // The node has four cores.
    resize(&bench, "5", "4Mi");
    let pending = |status: &Value| condition(status, "PodResizePending").cloned();
    let status = bench
        .api
        .wait("a refusal", |status| pending(status).is_some())
        .await;
    let refusal = pending(&status).unwrap();
    assert_eq!(
        (&refusal["status"], &refusal["reason"]),
        (&json!("True"), &json!("Infeasible"))
    );
    assert_eq!(
        refusal["message"],
        "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    );
    assert!(has(&status, &sized("100m", "4Mi")), "{status}");
    // What cannot be done at once is tried again.
    resize(&bench, "100m", "512Ki");
    let status = bench
        .api
        .wait("a failure", |status| {
            condition(status, "PodResizeInProgress").is_some_and(|one| one["reason"] == "Error")
        })
        .await;
    assert_eq!(pending(&status), None);
    let status = &status["containerStatuses"][0];
    assert_eq!(status["allocatedResources"]["memory"], "512Ki");
    assert_eq!(status["resources"]["limits"]["memory"], "4Mi");
    resize(&bench, "100m", "2Mi");
    assert!(matches!(a.order().await, Order::Resize(_)));
    let done = |status: &Value| condition(status, "PodResizeInProgress").is_none();
    bench.api.wait("the end of it", done).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_wants_it_so_starts_again_with_what_it_gets() {
    let mut container = resizable("100m", "4Mi");
    container["resizePolicy"][1]["restartPolicy"] = json!("RestartContainer");
    let mut bench = Bench::new(pod("Always", json!([container])));
    let _worker = run(&bench);
    let mut a = bench.started("a").await;
    resize(&bench, "100m", "8Mi");
    assert_eq!(a.order().await, Order::Terminate(Duration::from_secs(30)));
    a.exit(143);
    let again = bench.started("a").await;
    assert_eq!(again.config.memory_limit, Some(8 << 20));
    let large = sized("100m", "8Mi");
    let status = bench
        .api
        .wait("more of it", |status| has(status, &large))
        .await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_starts_again_by_its_own_rules() {
    let mut ruled = container("a");
    ruled["restartPolicy"] = json!("Never");
    ruled["restartPolicyRules"] =
        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut bench = Bench::new(pod("Always", json!([ruled])));
    let _worker = run(&bench);
    bench.started("a").await.exit(42);
    bench.started("a").await.exit(1);
    let status = bench
        .api
        .wait("failure", |status| status["phase"] == "Failed")
        .await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(
        status["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        1
    );
}
