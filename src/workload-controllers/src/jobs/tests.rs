//! Jobs on an API server in memory, whose pods end as a test says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Clock, Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const JOBS: &str = "apis/batch/v1/jobs";

fn job(spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "namespace": "shop", "name": "sum", "uid": "sum-uid", "generation": 1 },
        "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 6,
            "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "sum-uid" } },
            "template": {
                "metadata": { "labels": { "batch.kubernetes.io/controller-uid": "sum-uid" } },
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{ "name": "main", "image": "sum" }],
                },
            },
        },
    });
    let all = job["spec"].as_object_mut().unwrap();
    all.extend(spec.as_object().unwrap().clone());
    job
}

/// The controller at work on an API server in memory.
fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context::new(api.client(), Options::default(), shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

/// From now on, every pod ends in this phase a moment after it began.
fn all_end(api: &FakeApi, phase: &'static str) {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for pod in api.objects(PODS) {
                if pod["status"].is_null() {
                    let name = pod["metadata"]["name"].as_str().unwrap();
                    api.edit(PODS, "shop", name, |pod| {
                        pod["status"] = json!({ "phase": phase });
                    });
                }
            }
        }
    });
}

fn status_of(api: &FakeApi) -> Value {
    api.object(JOBS, "shop", "sum").unwrap()["status"].clone()
}

/// The conditions that hold, with their reasons.
fn conditions(api: &FakeApi) -> Vec<(String, String)> {
    let conditions = status_of(api)["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let holding = conditions
        .iter()
        .filter(|condition| condition["status"] == "True");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    holding
        .map(|condition| (text(&condition["type"]), text(&condition["reason"])))
        .collect()
}

fn is(api: &FakeApi, type_: &str) -> bool {
    conditions(api).iter().any(|(known, _)| known == type_)
}

fn tracked(api: &FakeApi) -> usize {
    let pods = api.objects(PODS);
    pods.iter()
        .filter(|pod| pod["metadata"]["finalizers"][0] == status::FINALIZER)
        .count()
}

fn creations(api: &FakeApi) -> usize {
    api.writes()
        .iter()
        .filter(|write| *write == "POST api/v1/pods")
        .count()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(one, other)| ((*one).to_owned(), (*other).to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_as_many_pods_as_it_needs_and_counts_each_once() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(JOBS, &job(&json!({ "completions": 5, "parallelism": 2 })));
    let _running = started(&api);
    all_end(&api, "Succeeded");
    api.until("the end", |api| is(api, "Complete")).await;
    api.settle().await;
    let status = status_of(&api);
    assert_eq!((creations(&api), &status["succeeded"]), (5, &json!(5)));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert!(status["active"].is_null() && status["failed"].is_null());
    assert!(status["startTime"].is_string() && status["completionTime"].is_string());
    let reason = "CompletionsReached";
    assert_eq!(
        conditions(&api),
        pairs(&[("SuccessCriteriaMet", reason), ("Complete", reason)])
    );
    assert_eq!((api.objects(PODS).len(), tracked(&api)), (5, 0));
    let reasons: BTreeSet<_> = api
        .objects("api/v1/events")
        .iter()
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        reasons,
        BTreeSet::from(["Completed", "SuccessfulCreate"].map(str::to_owned))
    );
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_up_to_the_limit() {
    let api = FakeApi::new();
    api.put(JOBS, &job(&json!({ "backoffLimit": 2 })));
    let _running = started(&api);
    all_end(&api, "Failed");
    api.until("the end", |api| is(api, "Failed")).await;
    api.settle().await;
    assert_eq!(
        (creations(&api), &status_of(&api)["failed"]),
        (3, &json!(3))
    );
    let reason = "BackoffLimitExceeded";
    assert_eq!(
        conditions(&api),
        pairs(&[("FailureTarget", reason), ("Failed", reason)])
    );
    assert!(status_of(&api)["completionTime"].is_null());
    assert_eq!(tracked(&api), 0);
}

#[tokio::test(start_paused = true)]
async fn each_pod_of_an_indexed_job_knows_its_index() {
    let api = FakeApi::new();
    api.put(
        JOBS,
        &job(&json!({ "completions": 4, "parallelism": 3, "completionMode": "Indexed" })),
    );
    let _running = started(&api);
    api.until("three pods", |api| api.objects(PODS).len() == 3)
        .await;
    let pod = api.objects(PODS)[0].clone();
    assert_eq!(pod["metadata"]["generateName"], "sum-0-");
    assert_eq!(pod["metadata"]["labels"][status::INDEX], "0");
    assert_eq!(pod["metadata"]["annotations"][status::INDEX], "0");
    assert_eq!(pod["spec"]["hostname"], "sum-0");
    assert_eq!(
        pod["spec"]["containers"][0]["env"][0]["name"],
        "JOB_COMPLETION_INDEX"
    );
    // The pod of index 1 fails, and the index is run again.
    let second = api.objects(PODS)[1]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    api.edit(PODS, "shop", &second, |pod| {
        pod["status"] = json!({ "phase": "Failed" });
    });
    api.until("it again", |_| creations(&api) == 4).await;
    all_end(&api, "Succeeded");
    api.until("the end", |api| is(api, "Complete")).await;
    let status = status_of(&api);
    assert_eq!(status["completedIndexes"], "0-3");
    assert_eq!(
        (&status["succeeded"], &status["failed"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(creations(&api), 5);
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_is_done_when_all_of_its_pods_are() {
    let api = FakeApi::new();
    api.put(
        JOBS,
        &job(&json!({ "completions": null, "parallelism": 3 })),
    );
    let _running = started(&api);
    all_end(&api, "Succeeded");
    api.until("the end", |api| is(api, "Complete")).await;
    api.settle().await;
    assert_eq!(
        (creations(&api), &status_of(&api)["succeeded"]),
        (3, &json!(3))
    );
}

#[tokio::test(start_paused = true)]
async fn suspending_gives_the_pods_up_without_counting_them() {
    let api = FakeApi::new();
    api.put(JOBS, &job(&json!({ "completions": 2, "parallelism": 2 })));
    let _running = started(&api);
    api.until("two pods", |api| status_of(api)["active"] == 2)
        .await;
    api.edit(JOBS, "shop", "sum", |job| {
        job["spec"]["suspend"] = json!(true);
    });
    api.until("no pod", |api| {
        is(api, "Suspended") && api.objects(PODS).is_empty()
    })
    .await;
    api.settle().await;
    assert!(status_of(&api)["failed"].is_null() && status_of(&api)["startTime"].is_null());
    api.edit(JOBS, "shop", "sum", |job| {
        job["spec"]["suspend"] = json!(false);
    });
    all_end(&api, "Succeeded");
    api.until("the end", |api| is(api, "Complete")).await;
    assert_eq!(creations(&api), 4);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_stops_what_is_at_work() {
    let api = FakeApi::new();
    api.put(
        JOBS,
        &job(&json!({ "parallelism": 2, "completions": 2, "activeDeadlineSeconds": 60 })),
    );
    let _running = started(&api);
    api.until("two pods", |api| status_of(api)["active"] == 2)
        .await;
    api.edit(JOBS, "shop", "sum", |job| {
        job["status"]["startTime"] = json!("2020-01-01T00:00:00Z");
    });
    api.until("the end", |api| is(api, "Failed")).await;
    api.settle().await;
    let reason = "DeadlineExceeded";
    assert_eq!(
        conditions(&api),
        pairs(&[("FailureTarget", reason), ("Failed", reason)])
    );
    assert!(api.objects(PODS).is_empty());
    assert_eq!(status_of(&api)["failed"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_time_is_over_goes_and_a_job_that_is_gone_holds_no_pod() {
    let api = FakeApi::new();
    api.put(JOBS, &job(&json!({ "ttlSecondsAfterFinished": 0 })));
    let _running = started(&api);
    api.until("a pod", |api| api.objects(PODS).len() == 1).await;
    all_end(&api, "Succeeded");
    api.until("the deletion", |api| {
        let job = api.object(JOBS, "shop", "sum").unwrap();
        job["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    api.remove(JOBS, "shop", "sum");

    let mut other = job(&json!({}));
    other["metadata"]["uid"] = json!("other-uid");
    api.put(JOBS, &other);
    api.until("a pod of the other", |_| creations(&api) == 2)
        .await;
    api.remove(JOBS, "shop", "sum");
    api.until("no finalizer", |api| tracked(api) == 0).await;
}

/// From now on, a pod ends a moment after it began as `how` says of its index.
fn each_ends(api: &FakeApi, how: impl Fn(&str) -> Option<Value> + Send + 'static) {
    let api = api.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for pod in api.objects(PODS) {
                let index = pod["metadata"]["labels"][status::INDEX].as_str();
                if pod["status"].is_null()
                    && let Some(status) = how(index.unwrap_or_default())
                {
                    let name = pod["metadata"]["name"].as_str().unwrap();
                    api.edit(PODS, "shop", name, |pod| pod["status"] = status);
                }
            }
        }
    });
}

fn exited(code: i32) -> Value {
    json!({
        "phase": "Failed",
        "containerStatuses": [{
            "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code } },
        }],
    })
}

fn succeeded() -> Value {
    json!({ "phase": "Succeeded" })
}

#[tokio::test(start_paused = true)]
async fn a_failure_policy_ends_the_job_at_once() {
    let api = FakeApi::new();
    let rules = json!([
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [42] } },
    ]);
    api.put(
        JOBS,
        &job(&json!({ "podFailurePolicy": { "rules": rules } })),
    );
    let _running = started(&api);
    each_ends(&api, |_| Some(exited(42)));
    api.until("the end", |api| is(api, "Failed")).await;
    let reason = "PodFailurePolicy";
    assert_eq!(
        conditions(&api),
        pairs(&[("FailureTarget", reason), ("Failed", reason)])
    );
    assert_eq!((creations(&api), tracked(&api)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_ignores_is_tried_again_without_being_counted() {
    let api = FakeApi::new();
    let rules = json!([
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
    ]);
    let spec = json!({ "backoffLimit": 0, "podFailurePolicy": { "rules": rules } });
    api.put(JOBS, &job(&spec));
    let _running = started(&api);
    let counted = api.clone();
    each_ends(&api, move |_| {
        let disrupted = json!([{ "type": "DisruptionTarget", "status": "True" }]);
        Some(match creations(&counted) {
            1..=3 => json!({ "phase": "Failed", "conditions": disrupted }),
            _ => succeeded(),
        })
    });
    api.until("the end", |api| is(api, "Complete")).await;
    assert!(status_of(&api)["failed"].is_null());
    assert_eq!((creations(&api), tracked(&api)), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn each_index_has_its_own_tries() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    let spec = json!({
        "completions": 4, "parallelism": 4, "completionMode": "Indexed",
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1,
    });
    api.put(JOBS, &job(&spec));
    let _running = started(&api);
    each_ends(&api, |index| {
        Some(if index == "1" { exited(1) } else { succeeded() })
    });
    api.until("the end", |api| is(api, "Failed")).await;
    let status = status_of(&api);
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&json!("0,2,3"), &json!("1"))
    );
    assert_eq!(
        (&status["failed"], &status["succeeded"]),
        (&json!(2), &json!(3))
    );
    let reason = "FailedIndexes";
    assert_eq!(
        conditions(&api),
        pairs(&[("FailureTarget", reason), ("Failed", reason)])
    );
    assert_eq!((creations(&api), tracked(&api)), (5, 0));
    let failures = |pod: &Value| {
        let annotations = &pod["metadata"]["annotations"];
        (annotations[status::INDEX] == "1").then(|| annotations[retries::FAILURES].clone())
    };
    let mut of_one: Vec<_> = api.objects(PODS).iter().filter_map(failures).collect();
    of_one.sort_by_key(|count| count.as_str().map(str::to_owned));
    assert_eq!(of_one, ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_failed_indexes_or_a_hopeless_one_end_the_tries() {
    let spec = |more: &Value| {
        let mut spec = json!({
            "completions": 5, "parallelism": 1, "completionMode": "Indexed",
            "backoffLimit": i32::MAX, "backoffLimitPerIndex": 2,
        });
        let all = spec.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        job(&spec)
    };
    let hopeless = json!([
        { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [7] } },
    ]);
    let api = FakeApi::new();
    api.put(
        JOBS,
        &spec(&json!({ "maxFailedIndexes": 1, "podFailurePolicy": { "rules": hopeless } })),
    );
    let _running = started(&api);
    each_ends(&api, |_| Some(exited(7)));
    api.until("the end", |api| is(api, "Failed")).await;
    assert_eq!(conditions(&api)[1].1, "MaxFailedIndexesExceeded");
    assert_eq!(status_of(&api)["failedIndexes"], "0,1");
    assert_eq!((creations(&api), tracked(&api)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_success_policy_ends_the_job_and_what_is_left_of_it() {
    let api = FakeApi::new();
    let spec = json!({
        "completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": { "rules": [{ "succeededIndexes": "0" }] },
    });
    api.put(JOBS, &job(&spec));
    let _running = started(&api);
    each_ends(&api, |index| (index == "0").then(succeeded));
    api.until("the end", |api| is(api, "Complete")).await;
    api.settle().await;
    let reason = "SuccessPolicy";
    assert_eq!(
        conditions(&api),
        pairs(&[("SuccessCriteriaMet", reason), ("Complete", reason)])
    );
    assert_eq!((api.objects(PODS).len(), tracked(&api)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_adopted_and_counted_and_another_let_go() {
    let api = FakeApi::new();
    let orphan = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": "found",
            "labels": { "batch.kubernetes.io/controller-uid": "sum-uid" },
        },
        "spec": { "containers": [] },
    });
    api.put(PODS, &orphan);
    api.put(JOBS, &job(&json!({ "completions": 2, "parallelism": 2 })));
    let _running = started(&api);
    api.until("two", |api| status_of(api)["active"] == 2).await;
    assert_eq!((creations(&api), tracked(&api)), (1, 2));
    let adopted = api.object(PODS, "shop", "found").unwrap();
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "sum");
    // Without the label it is nobody's again, and another one takes its place.
    api.edit(PODS, "shop", "found", |pod| {
        pod["metadata"]["labels"] = json!({});
    });
    api.until("another", |_| creations(&api) == 2).await;
    api.settle().await;
    let released = api.object(PODS, "shop", "found").unwrap();
    assert_eq!(released["metadata"]["ownerReferences"], json!([]));
    assert_eq!(released["metadata"]["finalizers"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn fewer_completions_give_up_the_pods_of_the_others() {
    let api = FakeApi::new();
    let spec = json!({ "completions": 4, "parallelism": 4, "completionMode": "Indexed" });
    api.put(JOBS, &job(&spec));
    let _running = started(&api);
    api.until("four", |api| status_of(api)["active"] == 4).await;
    api.edit(JOBS, "shop", "sum", |job| {
        job["spec"]["completions"] = json!(2);
        job["spec"]["parallelism"] = json!(2);
    });
    api.until("two", |api| status_of(api)["active"] == 2).await;
    let mut indexes: Vec<_> = api
        .objects(PODS)
        .iter()
        .map(|pod| pod["metadata"]["labels"][status::INDEX].clone())
        .collect();
    indexes.sort_by_key(|index| index.as_str().map(str::to_owned));
    assert_eq!(indexes, ["0", "1"]);
    all_end(&api, "Succeeded");
    api.until("the end", |api| is(api, "Complete")).await;
    assert_eq!(status_of(&api)["completedIndexes"], "0,1");
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_goes_in_its_time_however_the_clock_is_set() {
    for by in [-3600_i64, 3600] {
        let api = FakeApi::new();
        let ahead = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let (begin, start) = (tokio::time::Instant::now(), Timestamp::now());
        let set = Arc::clone(&ahead);
        let clock = move || {
            let ahead = set.load(std::sync::atomic::Ordering::Relaxed);
            start + begin.elapsed() + jiff::SignedDuration::from_secs(ahead)
        };
        let options = Options {
            clock: Clock::new(clock),
            ..Options::default()
        };
        let context = Context::new(api.client(), options, CancellationToken::new());
        tokio::spawn(run(context));
        all_end(&api, "Succeeded");
        api.put(JOBS, &job(&json!({ "ttlSecondsAfterFinished": 50 })));
        api.until("the end", |api| {
            let job = api.object(JOBS, "shop", "sum").unwrap();
            !job["status"]["completionTime"].is_null()
        })
        .await;
        ahead.store(by, std::sync::atomic::Ordering::Relaxed);
        let there = |api: &FakeApi| {
            let job = api.object(JOBS, "shop", "sum").unwrap();
            job["metadata"]["deletionTimestamp"].is_null()
        };
        tokio::time::sleep(Duration::from_secs(45)).await;
        // Set back, it ends an hour from now: no reason to delete it early. Set forth, its time may be over at once.
        assert!(there(&api) || by > 0);
        let rest = if by < 0 { 3610 } else { 10 };
        tokio::time::sleep(Duration::from_secs(rest)).await;
        assert!(!there(&api), "by {by}");
    }
}
