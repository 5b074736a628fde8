//! Cron jobs on an API server in memory, by the clock of the test.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use vaquita_reconcile::{Clock, Options, testing::api::FakeApi};

const CRON_JOBS: &str = "apis/batch/v1/cronjobs";
const JOBS: &str = "apis/batch/v1/jobs";
/// The test begins ten seconds before a full hour.
const START: &str = "2026-06-01T11:59:50Z";

fn tick(spec: &Value) -> Value {
    let mut cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {
            "namespace": "shop", "name": "tick", "uid": "tick-uid",
            "creationTimestamp": "2026-06-01T11:00:30Z",
        },
        "spec": {
            "schedule": "0 * * * *",
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {
                "metadata": { "labels": { "app": "tick" } },
                "spec": { "template": { "spec": { "containers": [] } } },
            },
        },
    });
    let all = cron_job["spec"].as_object_mut().unwrap();
    all.extend(spec.as_object().unwrap().clone());
    cron_job
}

/// The controller at work; its clock goes with the test's.
fn started(api: &FakeApi) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let begin = tokio::time::Instant::now();
    let start: Timestamp = START.parse().unwrap();
    let options = Options {
        clock: Clock::new(move || start + begin.elapsed()),
        ..Options::default()
    };
    let context = Context::new(api.client(), options, shutdown.clone());
    tokio::spawn(run(context));
    shutdown
}

async fn pass(minutes: u64) {
    tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
}

fn names(api: &FakeApi) -> Vec<String> {
    let jobs = api.objects(JOBS);
    let name = |job: &Value| job["metadata"]["name"].as_str().unwrap().to_owned();
    jobs.iter().map(name).collect()
}

fn status_of(api: &FakeApi) -> Value {
    api.object(CRON_JOBS, "shop", "tick").unwrap()["status"].clone()
}

fn finish(api: &FakeApi, name: &str, how: &str, at: &str) {
    api.edit(JOBS, "shop", name, |job| {
        job["status"] = json!({
            "startTime": at, "completionTime": at,
            "conditions": [{ "type": how, "status": "True" }],
        });
    });
}

fn reasons(api: &FakeApi) -> Vec<String> {
    let events = api.objects("api/v1/events");
    let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
    let mut reasons: Vec<_> = events.iter().map(reason).collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

/// The name of the job that is due so many minutes after noon.
fn at(minute: i64) -> String {
    let noon: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
    format!("tick-{}", noon.as_second() / 60 + minute)
}

#[tokio::test(start_paused = true)]
async fn a_job_is_made_when_the_clock_says_so_and_told_of() {
    let api = FakeApi::lagging(Duration::from_millis(300));
    api.put(
        CRON_JOBS,
        &tick(&json!({ "timeZone": "Asia/Kolkata", "schedule": "30 * * * *" })),
    );
    let _running = started(&api);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(names(&api).is_empty(), "not yet");
    pass(1).await;
    assert_eq!(names(&api), [at(0)]);
    let job = api.objects(JOBS).remove(0);
    assert_eq!(
        job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-06-01T17:30:00+05:30"
    );
    assert_eq!(job["metadata"]["labels"]["app"], "tick");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    let status = status_of(&api);
    assert_eq!(status["lastScheduleTime"], "2026-06-01T12:00:00Z");
    assert_eq!(status["active"][0]["name"], json!(at(0)));
    finish(&api, &at(0), "Complete", "2026-06-01T12:00:40Z");
    pass(1).await;
    let status = status_of(&api);
    assert!(status["active"].is_null());
    assert_eq!(status["lastSuccessfulTime"], "2026-06-01T12:00:40Z");
    pass(60).await;
    assert_eq!(names(&api), [at(0), at(60)]);
    assert_eq!(reasons(&api), ["SawCompletedJob", "SuccessfulCreate"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_still_on_is_kept_beside_awaited_or_replaced() {
    for (policy, expected) in [
        ("Allow", vec![at(0), at(60)]),
        ("Forbid", vec![at(0)]),
        ("Replace", vec![at(60)]),
    ] {
        let api = FakeApi::new();
        api.put(CRON_JOBS, &tick(&json!({ "concurrencyPolicy": policy })));
        let _running = started(&api);
        pass(62).await;
        assert_eq!(names(&api), expected, "{policy}");
        let active = status_of(&api)["active"].as_array().unwrap().len();
        assert_eq!(active, expected.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_run_is_made_up_for_when_the_one_before_is_over() {
    let api = FakeApi::new();
    api.put(CRON_JOBS, &tick(&json!({ "concurrencyPolicy": "Forbid" })));
    let _running = started(&api);
    pass(65).await;
    finish(&api, &at(0), "Failed", "2026-06-01T13:05:00Z");
    pass(1).await;
    assert_eq!(names(&api), [at(0), at(60)]);
    assert!(reasons(&api).contains(&"JobAlreadyActive".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_made_up_for_once_unless_it_is_too_late() {
    let missed = json!({ "schedule": "*/5 * * * *" });
    let mut long_ago = tick(&missed);
    long_ago["metadata"]["creationTimestamp"] = json!("2026-05-01T00:00:00Z");
    let api = FakeApi::new();
    api.put(CRON_JOBS, &long_ago);
    let _running = started(&api);
    api.settle().await;
    assert_eq!(names(&api), [at(-5)]);
    assert!(reasons(&api).contains(&"TooManyMissedTimes".to_owned()));

    let api = FakeApi::new();
    long_ago["spec"]["startingDeadlineSeconds"] = json!(100);
    api.put(CRON_JOBS, &long_ago);
    let _running = started(&api);
    api.settle().await;
    assert!(names(&api).is_empty());
    pass(1).await;
    assert_eq!(names(&api), [at(0)]);
    assert_eq!(reasons(&api), ["SuccessfulCreate"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_while_suspended_or_when_nobody_knows_the_zone() {
    let api = FakeApi::new();
    api.put(CRON_JOBS, &tick(&json!({ "suspend": true })));
    let _running = started(&api);
    pass(2).await;
    assert!(names(&api).is_empty());
    api.edit(CRON_JOBS, "shop", "tick", |tick| {
        tick["spec"]["suspend"] = json!(false);
        tick["spec"]["timeZone"] = json!("Europe/Nowhere");
    });
    pass(2).await;
    assert!(names(&api).is_empty());
    assert_eq!(reasons(&api), ["UnknownTimeZone"]);
    api.edit(CRON_JOBS, "shop", "tick", |tick| {
        tick["spec"]["timeZone"] = json!("UTC");
    });
    pass(1).await;
    assert_eq!(names(&api), [at(0)]);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_jobs_that_are_over_are_kept() {
    let api = FakeApi::new();
    let limits = json!({
        "schedule": "* * * * *", "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0,
    });
    let mut every_minute = tick(&limits);
    every_minute["metadata"]["creationTimestamp"] = json!("2026-06-01T11:59:30Z");
    api.put(CRON_JOBS, &every_minute);
    let _running = started(&api);
    for minute in 0..4 {
        api.until("the next", |api| {
            api.object(JOBS, "shop", &at(minute)).is_some()
        })
        .await;
        let how = if minute == 2 { "Failed" } else { "Complete" };
        finish(
            &api,
            &at(minute),
            how,
            &format!("2026-06-01T12:0{minute}:30Z"),
        );
        api.settle().await;
    }
    assert_eq!(names(&api), [at(1), at(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_report_makes_no_second_job() {
    let api = FakeApi::new();
    api.put(CRON_JOBS, &tick(&json!({})));
    let mut before = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "namespace": "shop", "name": at(0), "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "tick-uid", "controller": true,
        }] },
    });
    api.put(JOBS, &before);
    let _running = started(&api);
    pass(1).await;
    assert_eq!(names(&api), [at(0)]);
    assert_eq!(status_of(&api)["active"][0]["name"], json!(at(0)));
    // Somebody else's job of the same name is left alone.
    before["metadata"]["name"] = json!(at(60));
    before["metadata"]["ownerReferences"] = json!([]);
    api.put(JOBS, &before);
    pass(62).await;
    assert_eq!(names(&api), [at(0), at(60)]);
    assert!(reasons(&api).contains(&"FailedCreate".to_owned()));
}
