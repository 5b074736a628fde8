//! What a job's policies say: of a pod that has failed, and of the indexes that have succeeded.

use k8s_openapi::api::{
    batch::v1::{
        PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
        SuccessPolicy,
    },
    core::v1::{ContainerStatus, Pod},
};
use kube::ResourceExt as _;

use super::indexes::Indexes;

/// What a failed pod means for its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The job has failed, for this reason.
    FailJob(String),
    /// The pod's index has failed and is not tried again.
    FailIndex,
    /// It was not the program's fault: it is tried again and not counted.
    Ignore,
    /// It counts, as all do without a policy.
    Count,
}

/// What the first rule that fits says of a pod that has failed.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.into_iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let Some(what) = fits(rule, pod) else {
            continue;
        };
        match rule.action.as_str() {
            "FailJob" => {
                let action = &rule.action;
                let message = format!("{what} matching {action} rule at index {number}");
                return Verdict::FailJob(message);
            }
            "FailIndex" => return Verdict::FailIndex,
            "Ignore" => return Verdict::Ignore,
            "Count" => return Verdict::Count,
            // An action of the future: as if there were no such rule.
            _ => {}
        }
    }
    Verdict::Count
}

/// What about the pod fits the rule, if anything does.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let who = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let main = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        let (container, code) = main
            .chain(init)
            .find_map(|container| Some((container, exit_code(wanted, container)?)))?;
        let name = &container.name;
        return Some(format!(
            "Container {name} for pod {who} failed with exit code {code}"
        ));
    }
    let conditions = || status.conditions.iter().flatten();
    let patterns = rule.on_pod_conditions.iter().flatten();
    patterns
        .flat_map(|pattern| {
            let wanted = pattern.status.as_deref().unwrap_or("True");
            conditions().filter(move |condition| {
                condition.type_ == pattern.type_ && condition.status == wanted
            })
        })
        .map(|condition| format!("Pod {who} has condition {}", condition.type_))
        .next()
}

/// The exit code of a container that failed, if it is a wanted one.
fn exit_code(
    wanted: &PodFailurePolicyOnExitCodesRequirement,
    container: &ContainerStatus,
) -> Option<i32> {
    let name = wanted.container_name.as_ref();
    if name.is_some_and(|name| *name != container.name) {
        return None;
    }
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    let code = Some(terminated.exit_code).filter(|code| *code != 0)?;
    let listed = wanted.values.contains(&code);
    let fits = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    fits.then_some(code)
}

/// Which rule of a success policy the indexes that have succeeded satisfy, in words.
pub(super) fn success(policy: &SuccessPolicy, succeeded: &Indexes) -> Option<String> {
    let met = policy.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(Indexes::parse);
        let have = match &wanted {
            Some(wanted) => succeeded.common(wanted),
            None => succeeded.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => have >= i64::from(count),
            (None, Some(wanted)) => have == wanted.len(),
            (None, None) => false,
        }
    });
    met.map(|number| format!("Matched rules at index {number}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(rules: &Value) -> PodFailurePolicy {
        serde_json::from_value(json!({ "rules": rules })).unwrap()
    }

    fn failed(containers: &[(&str, i32)], conditions: &[&str]) -> Pod {
        let containers: Vec<_> = containers
            .iter()
            .map(|(name, code)| {
                json!({
                    "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": { "exitCode": code } },
                })
            })
            .collect();
        let conditions: Vec<_> = conditions
            .iter()
            .map(|type_| json!({ "type": type_, "status": "True" }))
            .collect();
        let pod = json!({
            "metadata": { "namespace": "shop", "name": "sum-0" },
            "status": { "phase": "Failed", "containerStatuses": containers, "conditions": conditions },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(&json!([
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
            { "action": "Invent", "onExitCodes": { "operator": "NotIn", "values": [1] } },
            { "action": "FailJob", "onExitCodes": { "containerName": "main", "operator": "In", "values": [42, 43] } },
            { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [7] } },
        ]));
        let verdict = |pod: &Pod| judge(Some(&policy), pod);
        assert_eq!(
            verdict(&failed(&[("main", 42)], &["DisruptionTarget"])),
            Verdict::Ignore
        );
        let message = "Container main for pod shop/sum-0 failed with exit code 42 matching FailJob rule at index 2";
        assert_eq!(
            verdict(&failed(&[("side", 0), ("main", 42)], &[])),
            Verdict::FailJob(message.to_owned())
        );
        assert_eq!(verdict(&failed(&[("side", 42)], &[])), Verdict::Count);
        assert_eq!(verdict(&failed(&[("side", 7)], &[])), Verdict::FailIndex);
        assert_eq!(verdict(&failed(&[("main", 1)], &[])), Verdict::Count);
        assert_eq!(judge(None, &failed(&[("main", 42)], &[])), Verdict::Count);
    }

    #[test]
    fn a_container_that_ended_well_fits_nothing() {
        let policy = policy(&json!([
            { "action": "FailIndex", "onExitCodes": { "operator": "NotIn", "values": [1] } },
        ]));
        assert_eq!(
            judge(Some(&policy), &failed(&[("main", 0)], &[])),
            Verdict::Count
        );
        assert_eq!(
            judge(Some(&policy), &failed(&[("main", 2)], &[])),
            Verdict::FailIndex
        );
    }

    #[test]
    fn success_is_a_matter_of_indexes_and_counts() {
        let met = |rules: Value, succeeded: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            success(&policy, &Indexes::parse(succeeded))
        };
        let leader = json!([{ "succeededIndexes": "0,2-3" }]);
        assert_eq!(met(leader.clone(), "0-1,3"), None);
        assert_eq!(
            met(leader, "0,2-5").as_deref(),
            Some("Matched rules at index 0")
        );
        let some =
            json!([{ "succeededCount": 9 }, { "succeededIndexes": "1-4", "succeededCount": 3 }]);
        assert_eq!(met(some.clone(), "1,3,5"), None);
        assert_eq!(
            met(some, "1,3-5").as_deref(),
            Some("Matched rules at index 1")
        );
    }
}
