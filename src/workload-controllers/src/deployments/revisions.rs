//! The annotations by which a deployment and its replica sets remember their history, as `kubectl rollout` reads it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Resource, ResourceExt as _};

use super::plan::Limits;

/// Which rollout an object is of, counted from 1.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a replica set had before, when a rollout came back to it; separated by commas.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The deployment's size when a replica set was last sized.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods the deployment could have then.
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// What is of the deployment alone.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];
/// The longest history; the earliest revisions are dropped from a longer one.
const HISTORY_LIMIT: usize = 2000;

type Annotations = BTreeMap<String, String>;

/// The object's revision, or 0 if it has none.
pub(super) fn revision<K: Resource>(object: &K) -> i64 {
    number(object.annotations(), REVISION).unwrap_or(0)
}

/// The deployment's size when the replica set was last sized.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set.annotations(), DESIRED)
}

/// The most pods the deployment could have when the replica set was last sized.
pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    number(set.annotations(), MOST)
}

/// `annotations` of a replica set with the deployment's own, at this revision or a later one.
pub(super) fn annotate(
    annotations: &Annotations,
    deployment: &Deployment,
    revision: i64,
) -> Annotations {
    let mut annotations = annotations.clone();
    let copied = deployment.annotations().iter();
    let copied = copied.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    annotations.extend(copied.map(|(key, value)| (key.clone(), value.clone())));
    let before = number::<i64>(&annotations, REVISION).unwrap_or(0);
    if before < revision
        && let Some(before) = annotations.insert(REVISION.to_owned(), revision.to_string())
    {
        let history = annotations.entry(HISTORY.to_owned()).or_default();
        *history = remember(history, &before);
    }
    annotations
}

/// `annotations` of a replica set that is sized within these limits.
pub(super) fn sized(annotations: &Annotations, limits: &Limits) -> Annotations {
    let mut annotations = annotations.clone();
    annotations.insert(DESIRED.to_owned(), limits.wanted.to_string());
    annotations.insert(MOST.to_owned(), limits.most().to_string());
    annotations
}

fn remember(history: &str, revision: &str) -> String {
    let mut history = match history {
        "" => revision.to_owned(),
        history => format!("{history},{revision}"),
    };
    while history.len() > HISTORY_LIMIT {
        match history.split_once(',') {
            Some((_, later)) => history = later.to_owned(),
            None => break,
        }
    }
    history
}

fn number<N: std::str::FromStr>(annotations: &Annotations, key: &str) -> Option<N> {
    annotations.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Deployment {
        let mut deployment = Deployment::default();
        let all = deployment.annotations_mut();
        all.insert(
            "kubernetes.io/change-cause".to_owned(),
            "because".to_owned(),
        );
        all.insert(REVISION.to_owned(), "7".to_owned());
        all.insert(NOT_COPIED[0].to_owned(), "{}".to_owned());
        deployment
    }

    #[test]
    fn a_set_takes_what_the_deployment_says_but_not_its_history() {
        let annotations = annotate(&Annotations::new(), &deployment(), 3);
        assert_eq!(annotations["kubernetes.io/change-cause"], "because");
        assert_eq!(annotations[REVISION], "3");
        assert_eq!(annotations.len(), 2);
    }

    #[test]
    fn coming_back_to_a_set_gives_it_a_new_revision_and_keeps_the_old_ones() {
        let once = annotate(&Annotations::new(), &deployment(), 1);
        let twice = annotate(&once, &deployment(), 4);
        let thrice = annotate(&twice, &deployment(), 9);
        assert_eq!(
            (thrice[REVISION].as_str(), thrice[HISTORY].as_str()),
            ("9", "1,4")
        );
        assert_eq!(annotate(&thrice, &deployment(), 2), thrice, "never back");
    }

    #[test]
    fn the_history_is_bounded() {
        let history = (0..2000).fold(String::new(), |history, n| {
            remember(&history, &n.to_string())
        });
        assert!(history.len() <= HISTORY_LIMIT && history.ends_with(",1999"));
    }
}
