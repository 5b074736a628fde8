//! What a namespace's conditions say while it is being emptied, in the words that tools know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::NamespaceCondition, apimachinery::pkg::apis::meta::v1::Time};

use super::contents::Findings;

/// One thing that may be in the way: the condition's type, what it says when it isn't, and when it is.
struct Obstacle {
    type_: &'static str,
    clear: (&'static str, &'static str),
    present: (&'static str, Option<String>),
}

/// The conditions that tell these findings; those that are not ours stay as they are, and so does the transition time of
/// those whose status does.
pub(super) fn update(
    before: &[NamespaceCondition],
    findings: &Findings,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let mut conditions = before.to_vec();
    for obstacle in obstacles(findings) {
        let Obstacle {
            type_,
            clear,
            present,
        } = obstacle;
        let (status, reason, message) = match present {
            (reason, Some(message)) => ("True", reason, message),
            (_, None) => ("False", clear.0, clear.1.to_owned()),
        };
        let known = conditions
            .iter()
            .position(|condition| condition.type_ == type_);
        let since = known
            .filter(|at| conditions[*at].status == status)
            .and_then(|at| conditions[at].last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            // To the second, as the API server stores it: else nothing ever equals what was read.
            last_transition_time: since.or_else(|| {
                let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
                Some(Time(second))
            }),
        };
        match known {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

fn obstacles(findings: &Findings) -> [Obstacle; 5] {
    let missing: Vec<String> = findings
        .missing
        .iter()
        .map(|missing| format!("{}: {}", missing.group_version, missing.error))
        .collect();
    let failures = &findings.failures;
    [
        Obstacle {
            type_: "NamespaceDeletionDiscoveryFailure",
            clear: (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            present: (
                "DiscoveryFailed",
                some(&missing).map(|list| {
                    format!(
                        "Discovery failed for some groups, {} failing: {list}",
                        missing.len()
                    )
                }),
            ),
        },
        Obstacle {
            type_: "NamespaceDeletionGroupVersionParsingFailure",
            clear: (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            present: ("GroupVersionParsingFailed", None),
        },
        Obstacle {
            type_: "NamespaceDeletionContentFailure",
            clear: (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            present: (
                "ContentDeletionFailed",
                some(failures).map(|list| {
                    format!(
                        "Failed to delete all resource types, {} remaining: {list}",
                        failures.len()
                    )
                }),
            ),
        },
        Obstacle {
            type_: "NamespaceContentRemaining",
            clear: ("ContentRemoved", "All content successfully removed"),
            present: (
                "SomeResourcesRemain",
                counted(&findings.remaining, |name, count| {
                    format!("{} has {count} resource instances", dotted(name))
                })
                .map(|list| format!("Some resources are remaining: {list}")),
            ),
        },
        Obstacle {
            type_: "NamespaceFinalizersRemaining",
            clear: (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
            present: (
                "SomeFinalizersRemain",
                counted(&findings.finalizers, |name, count| {
                    format!("{name} in {count} resource instances")
                })
                .map(|list| {
                    format!("Some content in the namespace has finalizers remaining: {list}")
                }),
            ),
        },
    ]
}

fn some(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| list.join(", "))
}

fn counted(counts: &BTreeMap<String, usize>, say: fn(&str, usize) -> String) -> Option<String> {
    let said: Vec<_> = counts
        .iter()
        .map(|(name, count)| say(name, *count))
        .collect();
    some(&said)
}

/// Upstream writes the resources of the core group with their (empty) group: `pods.`.
fn dotted(resource: &str) -> String {
    if resource.contains('.') {
        resource.to_owned()
    } else {
        format!("{resource}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conditions: &[NamespaceCondition], type_: &str) -> (String, String, String) {
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .unwrap();
        (
            condition.status.clone(),
            condition.reason.clone().unwrap(),
            condition.message.clone().unwrap(),
        )
    }

    fn findings() -> Findings {
        Findings {
            remaining: [("pods".to_owned(), 2), ("jobs.batch".to_owned(), 1)].into(),
            finalizers: [("example.com/held".to_owned(), 1)].into(),
            ..Findings::default()
        }
    }

    #[test]
    fn conditions_say_what_is_left() {
        let conditions = update(&[], &findings(), Timestamp::UNIX_EPOCH);
        assert_eq!(conditions.len(), 5);
        let (status, reason, message) = said(&conditions, "NamespaceContentRemaining");
        assert_eq!((&*status, &*reason), ("True", "SomeResourcesRemain"));
        assert_eq!(
            message,
            "Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances"
        );
        let (status, _, message) = said(&conditions, "NamespaceFinalizersRemaining");
        assert_eq!(status, "True");
        assert!(message.ends_with("remaining: example.com/held in 1 resource instances"));
        assert_eq!(
            said(&conditions, "NamespaceDeletionContentFailure").0,
            "False"
        );
    }

    #[test]
    fn the_same_findings_change_nothing_and_time_tells_transitions_only() {
        let first = update(&[], &findings(), Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(update(&first, &findings(), later), first);
        let empty = update(&first, &Findings::default(), later);
        let time = |conditions: &[NamespaceCondition], at: usize| {
            conditions[at].last_transition_time.clone().unwrap().0
        };
        assert_eq!(time(&empty, 3), later, "contents remained and no longer do");
        assert_eq!(time(&empty, 0), Timestamp::UNIX_EPOCH, "never failed");
    }
}
