use vaquita_api::registry::Part;
use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

use super::*;

fn once() -> Value {
    json!({
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}],
        }}},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut job = once();
    change(&mut job["spec"]);
    refused(&resource(), job)
}

fn job(change: impl FnOnce(&mut Value)) -> Object {
    let mut job = once();
    change(&mut job["spec"]);
    created(&resource(), job)
}

fn report(old: &Object, status: Value) -> Result<Object, vaquita_api::status::Status> {
    let report = changed(old, |job| job["status"] = status);
    updated(&resource(), old, report, Part::Status)
}

#[test]
fn fills_in_labels_and_selector() {
    let job = job(|_| {});
    let labels = json!({
        "batch.kubernetes.io/controller-uid": "the-uid", "batch.kubernetes.io/job-name": "once",
        "controller-uid": "the-uid", "job-name": "once",
    });
    let spec = &job["spec"];
    assert_eq!(spec["template"]["metadata"]["labels"], labels);
    assert_eq!(job["metadata"]["labels"], labels);
    assert_eq!(
        spec["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "the-uid"}})
    );
    assert_eq!(
        [
            &spec["completions"],
            &spec["parallelism"],
            &spec["backoffLimit"]
        ],
        [1, 1, 6]
    );
    assert_eq!(spec["completionMode"], "NonIndexed");
    assert_eq!(spec["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(
        [&spec["suspend"], &spec["manualSelector"]],
        [&json!(false), &json!(false)]
    );
    assert_eq!(job["status"], json!({}));
    assert_stable(&resource(), &job);
}

#[test]
fn leaves_a_manual_selector_alone() {
    let job = job(|spec| {
        spec["manualSelector"] = json!(true);
        spec["selector"] = json!({"matchLabels": {"a": "b"}});
        spec["template"]["metadata"] = json!({"labels": {"a": "b"}});
    });
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(
        with(|spec| spec["manualSelector"] = json!(true)),
        [
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
        ]
    );
}

#[test]
fn refuses_another_jobs_labels() {
    let found = with(|spec| {
        spec["template"]["metadata"] = json!({"labels": {"controller-uid": "mine"}});
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("spec.template.metadata.labels[controller-uid]: Invalid value: {")
    );
    assert!(found[0].ends_with(": must be 'the-uid'"));
    let found = with(|spec| spec["selector"] = json!({"matchLabels": {"a": "b"}}));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with(": `selector` not auto-generated"));
    assert!(found[1].ends_with(": `selector` does not match template `labels`"));
}

#[test]
fn refuses_pods_that_never_end() {
    assert_eq!(
        with(|spec| spec["template"]["spec"]["restartPolicy"] = json!("Always")),
        [
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        ]
    );
    assert_eq!(
        refused(&resource(), json!({"metadata": {"name": "a"}})),
        [
            "spec.template.spec.containers: Required value",
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ]
    );
}

#[test]
fn checks_what_goes_with_indexes() {
    let indexed = |more: Value| {
        with(move |spec| {
            spec["completionMode"] = json!("Indexed");
            for (field, value) in more.as_object().unwrap() {
                spec[field] = value.clone();
            }
        })
    };
    assert_eq!(
        indexed(
            json!({"completions": 3, "parallelism": 2, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3})
        ),
        [""; 0]
    );
    assert_eq!(
        indexed(json!({"parallelism": 1})),
        ["spec.completions: Required value: when completion mode is Indexed"]
    );
    assert_eq!(
        indexed(json!({"completions": 3, "maxFailedIndexes": 4})),
        [
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
            "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
        ]
    );
    assert_eq!(
        indexed(json!({"completions": 200_000, "parallelism": 20_000, "backoffLimitPerIndex": 1})),
        [
            "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
            "spec.parallelism: Invalid value: 20000: must be less than or equal to 10000 when completions are above \
             100000 and used with backoff limit per index",
        ]
    );
    assert_eq!(
        with(|spec| spec["backoffLimitPerIndex"] = json!(1)),
        ["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]
    );
    assert_eq!(
        with(|spec| spec["completionMode"] = json!("Random")),
        [
            "spec.completionMode: Unsupported value: \"Random\": supported values: \"Indexed\", \"NonIndexed\""
        ]
    );
    let mut long = once();
    long["metadata"]["name"] = json!("a".repeat(62));
    long["spec"]["completionMode"] = json!("Indexed");
    long["spec"]["completions"] = json!(1);
    let found = refused(&resource(), long);
    assert!(
        found[0].contains("will not able to create pod with invalid DNS label: a"),
        "{found:?}"
    );
}

#[test]
fn checks_failure_policies() {
    let policy = |rules: Value| with(|spec| spec["podFailurePolicy"] = json!({"rules": rules}));
    assert_eq!(
        policy(json!([
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [1, 42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        ])),
        [""; 0]
    );
    assert_eq!(
        policy(json!([{}])),
        [
            "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ]
    );
    assert_eq!(
        policy(
            json!([{"action": "FailIndex", "onExitCodes": {"containerName": "d", "operator": "In", "values": [3, 0, 3]}}])
        ),
        [
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"d\": must be one of the container or initContainer names in the pod template",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
            "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
        ]
    );
    let job = job(|spec| {
        spec["podFailurePolicy"] =
            json!({"rules": [{"action": "Count", "onPodConditions": [{"type": "A"}]}]});
    });
    assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
    assert_eq!(
        job["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"],
        "True"
    );
}

#[test]
fn checks_success_policies() {
    let policy = |rules: Value| {
        with(|spec| {
            spec["completionMode"] = json!("Indexed");
            spec["completions"] = json!(5);
            spec["successPolicy"] = json!({"rules": rules});
        })
    };
    assert_eq!(
        policy(json!([{"succeededIndexes": "0,2-3", "succeededCount": 2}])),
        [""; 0]
    );
    assert_eq!(
        policy(
            json!([{"succeededIndexes": "0-1", "succeededCount": 3}, {}, {"succeededIndexes": "9"}])
        ),
        [
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            "spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            "spec.successPolicy.rules[2].succeededIndexes: Invalid value: \"9\": error parsing succeededIndexes: too large index: \"9\"",
        ]
    );
    assert_eq!(
        with(|spec| spec["successPolicy"] = json!({"rules": [{"succeededCount": 1}]})),
        [
            "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode"
        ]
    );
}

#[test]
fn knows_managers() {
    let by = |manager: &str| with(|spec| spec["managedBy"] = json!(manager));
    assert_eq!(by("example.com/mine"), [""; 0]);
    assert_eq!(
        by("mine"),
        [
            "spec.managedBy: Invalid value: \"mine\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        ]
    );
    assert_eq!(
        by(&format!("example.com/{}", "a".repeat(60))),
        ["spec.managedBy: Too long: may not be more than 63 bytes"]
    );
}

#[test]
fn keeps_its_template() {
    let old = job(|_| {});
    let other = changed(&old, |job| {
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    });
    let found = causes(updated(&resource(), &old, other, Part::Main));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("spec.template: Invalid value: {"));
    assert!(found[0].ends_with(": field is immutable"));
    let more = changed(&old, |job| job["spec"]["parallelism"] = json!(3));
    let new = updated(&resource(), &old, more, Part::Main).unwrap();
    assert_eq!(vaquita_api::meta::generation(&new), 2);
    let more = changed(&old, |job| job["spec"]["completions"] = json!(3));
    assert_eq!(
        causes(updated(&resource(), &old, more, Part::Main)),
        ["spec.completions: Invalid value: 3: field is immutable"]
    );
}

#[test]
fn may_be_placed_elsewhere_while_suspended() {
    let mut old = job(|spec| spec["suspend"] = json!(true));
    let placed = |old: &Object| {
        changed(old, |job| {
            let pod = &mut job["spec"]["template"]["spec"];
            pod["nodeSelector"] = json!({"a": "b"});
            pod["tolerations"] = json!([{"operator": "Exists"}]);
            pod["affinity"] = json!({"nodeAffinity": {}});
            pod["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        })
    };
    assert!(updated(&resource(), &old, placed(&old), Part::Main).is_ok());
    let image = changed(&old, |job| {
        job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y");
    });
    assert!(updated(&resource(), &old, image, Part::Main).is_err());
    old["status"] = json!({"active": 1, "startTime": "2020-01-01T00:00:00Z"});
    assert!(updated(&resource(), &old, placed(&old), Part::Main).is_err());
}

#[test]
fn an_indexed_job_grows_with_its_parallelism() {
    let old = job(|spec| {
        spec["completionMode"] = json!("Indexed");
        spec["completions"] = json!(2);
        spec["parallelism"] = json!(2);
    });
    let grown = changed(&old, |job| {
        job["spec"]["completions"] = json!(3);
        job["spec"]["parallelism"] = json!(3);
    });
    assert!(updated(&resource(), &old, grown, Part::Main).is_ok());
    let wrong = changed(&old, |job| job["spec"]["completions"] = json!(3));
    assert_eq!(
        causes(updated(&resource(), &old, wrong, Part::Main)),
        [
            "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"
        ]
    );
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True"})
}

#[test]
fn ends_once() {
    let old = job(|_| {});
    assert_eq!(
        causes(report(
            &old,
            json!({"conditions": [condition("Complete")], "active": 1})
        )),
        [
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
            "status.startTime: Required value: startTime is required for finished job",
        ]
    );
    let complete = json!({
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")], "succeeded": 1,
        "startTime": "2020-01-01T00:00:00Z", "completionTime": "2020-01-01T00:02:05Z",
    });
    let done = report(&old, complete.clone()).unwrap();
    let row = resource().row(&done, Timestamp::UNIX_EPOCH);
    assert_eq!(
        Value::from(row),
        json!([
            "once",
            "Complete",
            "1/1",
            "2m5s",
            "0s",
            "c",
            "x",
            "batch.kubernetes.io/controller-uid=the-uid"
        ])
    );
    let mut undone = complete;
    undone["conditions"] = json!([]);
    undone["succeeded"] = json!(0);
    undone["completionTime"] = Value::Null;
    assert_eq!(
        causes(report(&done, undone)),
        [
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ]
    );
    assert_eq!(
        causes(report(
            &old,
            json!({"conditions": [condition("Failed")], "startTime": "2020-01-01T00:00:00Z"})
        )),
        [
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
        ]
    );
}

#[test]
fn reports_make_sense() {
    let old = job(|spec| {
        spec["completionMode"] = json!("Indexed");
        spec["completions"] = json!(5);
        spec["backoffLimitPerIndex"] = json!(1);
    });
    assert_eq!(
        causes(report(
            &old,
            json!({
                "ready": 2, "active": 1, "completedIndexes": "0-2", "failedIndexes": "2,9",
                "uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]},
            })
        )),
        [
            "status.ready: Invalid value: 2: cannot set more ready pods than active",
            "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
            "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            "status.failedIndexes: Invalid value: \"2,9\": error parsing failedIndexes: too large index: \"9\"",
            "status.failedIndexes: Invalid value: \"2,9\": failedIndexes and completedIndexes overlap at index: 2",
        ]
    );
    let running = report(
        &old,
        json!({"active": 1, "failed": 3, "startTime": "2020-01-01T00:00:00Z"}),
    )
    .unwrap();
    assert_eq!(
        causes(report(&running, json!({"active": 1, "failed": 2}))),
        [
            "status.failed: Invalid value: 2: cannot decrease the failed counter",
            "status.startTime: Required value: startTime cannot be removed for unsuspended job",
        ]
    );
}

#[test]
fn prints_how_far_it_is() {
    let shown = |job: &Object| resource().row(job, Timestamp::UNIX_EPOCH)[1..4].to_vec();
    assert_eq!(shown(&job(|_| {})), ["Running", "0/1", ""]);
    assert_eq!(
        shown(&job(|spec| spec["parallelism"] = json!(3))),
        ["Running", "0/1 of 3", ""]
    );
    let suspended = report(
        &job(|_| {}),
        json!({"conditions": [condition("Suspended")]}),
    )
    .unwrap();
    assert_eq!(shown(&suspended), ["Suspended", "0/1", ""]);
}
