//! What becomes of a definition: which names it gets, and what its conditions say.
//!
//! All of this is a matter of the definition and its neighbours in the group alone; the API server decides when to ask, and
//! writes the outcome down.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use vaquita_api::{Object, meta};

use crate::definition::{APPROVAL, Approval, approval};

/// The finalizer that keeps a definition until all objects of its kind are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Why and how the deletion of a definition waits, goes on and ends; each is the reason and message of the condition
/// `Terminating`, which is true as long as there is something left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Termination {
    /// Objects are about to be deleted.
    Pending,
    /// Objects are being deleted.
    InProgress,
    /// Some objects could not be deleted.
    Failed(String),
    /// Objects that somebody's finalizers keep are left.
    Waiting(usize),
    /// Nothing is left.
    Completed,
    /// There never was anything.
    NeverEstablished,
}

impl Termination {
    fn parts(&self) -> (bool, &'static str, String) {
        let (goes_on, reason, message) = match self {
            Self::Pending => (
                true,
                "InstanceDeletionPending",
                "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            ),
            Self::InProgress => (
                true,
                "InstanceDeletionInProgress",
                "CustomResource deletion is in progress",
            ),
            Self::Failed(why) => {
                let message = format!("could not issue all deletes: {why}");
                return (true, "InstanceDeletionFailed", message);
            }
            Self::Waiting(left) => {
                let message = format!(
                    "could not confirm zero CustomResources remaining: {left} items remain"
                );
                return (true, "InstanceDeletionCheck", message);
            }
            Self::Completed => (false, "InstanceDeletionCompleted", "removed all instances"),
            Self::NeverEstablished => (false, "NeverEstablished", "resource was never established"),
        };
        (goes_on, reason, message.to_owned())
    }
}

/// Whether a condition of a definition is true.
pub fn is_true(definition: &CustomResourceDefinition, condition: &str) -> bool {
    definition
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|found| found.type_ == condition && found.status == "True")
}

/// Sets a condition in a definition's JSON. The time of its last transition changes with its status only. Gives whether
/// anything changed.
fn set(object: &mut Object, new: &CustomResourceDefinitionCondition, now: Timestamp) -> bool {
    let status = meta::object_mut(object, "status");
    let list = status
        .entry("conditions")
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(list) = list else {
        return false;
    };
    let mut value = json!({
        "type": new.type_,
        "status": new.status,
        "reason": new.reason,
        "message": new.message,
        "lastTransitionTime": meta::time(now),
    });
    let Some(old) = list.iter_mut().find(|old| old["type"] == value["type"]) else {
        list.push(value);
        return true;
    };
    if old["status"] == value["status"] {
        value["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    let changed = *old != value;
    *old = value;
    changed
}

fn condition(
    ty: &str,
    set: bool,
    reason: &str,
    message: String,
) -> CustomResourceDefinitionCondition {
    CustomResourceDefinitionCondition {
        type_: ty.to_owned(),
        status: if set { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None::<Time>,
        observed_generation: None,
    }
}

/// Marks a definition whose deletion begins: objects of its kind have to go first.
pub(crate) fn begin_deletion(object: &mut Object, now: Timestamp) {
    let metadata = meta::metadata_mut(object);
    let finalizers = metadata
        .entry("finalizers")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|finalizer| finalizer == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
    terminate(object, &Termination::Pending, now);
}

/// Writes down how far the deletion of a definition has come. With nothing left to do, its finalizer goes too. Gives
/// whether anything changed.
pub fn terminate(object: &mut Object, termination: &Termination, now: Timestamp) -> bool {
    let (goes_on, reason, message) = termination.parts();
    let changed = set(
        object,
        &condition("Terminating", goes_on, reason, message),
        now,
    );
    if goes_on {
        return changed;
    }
    let metadata = meta::metadata_mut(object);
    if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
        finalizers.retain(|finalizer| finalizer != CLEANUP);
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        }
    }
    true
}

/// The names that are taken in a group.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// Adds the names that another definition has been given.
    pub fn add(&mut self, status: &CustomResourceDefinitionStatus) {
        let Some(names) = &status.accepted_names else {
            return;
        };
        let resources = [Some(&names.plural), names.singular.as_ref()];
        self.resources
            .extend(resources.into_iter().flatten().cloned());
        self.resources
            .extend(names.short_names.iter().flatten().cloned());
        let kinds = [Some(&names.kind), names.list_kind.as_ref()];
        self.kinds.extend(kinds.into_iter().flatten().cloned());
    }
}

/// The names that a definition gets, and what has been decided about it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The accepted names.
    pub names: CustomResourceDefinitionNames,
    /// Whether it may be served: once it has all its names, and for good then.
    pub established: bool,
    conditions: Vec<CustomResourceDefinitionCondition>,
}

/// Decides about a definition. `taken` has the names of the others in its group.
pub fn decide(definition: &CustomResourceDefinition, taken: &Taken) -> Decision {
    let wanted = &definition.spec.names;
    let before = definition
        .status
        .as_ref()
        .and_then(|status| status.accepted_names.clone())
        .unwrap_or_default();
    let mut names = before.clone();
    let mut problem: Option<(&'static str, String)> = None;
    let fresh =
        |name: &str, had: &str, taken: &HashSet<String>| name == had || !taken.contains(name);
    let in_use = |name: &str| format!("{name:?} is already in use");
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if fresh(&wanted.plural, &before.plural, &taken.resources) {
        names.plural.clone_from(&wanted.plural);
    } else {
        problem = Some(("PluralConflict", in_use(&wanted.plural)));
    }
    let singular = text(&wanted.singular);
    if fresh(&singular, &text(&before.singular), &taken.resources) {
        names.singular.clone_from(&wanted.singular);
    } else {
        problem = Some(("SingularConflict", in_use(&singular)));
    }
    let had = before.short_names.as_deref().unwrap_or(&[]);
    let clashes: Vec<String> = wanted
        .short_names
        .iter()
        .flatten()
        .filter(|name| !had.contains(name) && taken.resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    match clashes.as_slice() {
        [] => names.short_names.clone_from(&wanted.short_names),
        [one] => problem = Some(("ShortNamesConflict", one.clone())),
        many => problem = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    if fresh(&wanted.kind, &before.kind, &taken.kinds) {
        names.kind.clone_from(&wanted.kind);
    } else {
        problem = Some(("KindConflict", in_use(&wanted.kind)));
    }
    let list_kind = text(&wanted.list_kind);
    if fresh(&list_kind, &text(&before.list_kind), &taken.kinds) {
        names.list_kind.clone_from(&wanted.list_kind);
    } else {
        problem = Some(("ListKindConflict", in_use(&list_kind)));
    }
    names.categories.clone_from(&wanted.categories);
    let (accepted, reason, message) = match problem {
        Some((reason, message)) => (false, reason, message),
        None => (true, "NoConflicts", "no conflicts found".to_owned()),
    };
    let established = accepted || is_true(definition, "Established");
    let mut conditions = vec![condition("NamesAccepted", accepted, reason, message)];
    if !is_true(definition, "Established") {
        conditions.push(if accepted {
            let message = "the initial names have been accepted".to_owned();
            condition("Established", true, "InitialNamesAccepted", message)
        } else {
            let message = "not all names are accepted".to_owned();
            condition("Established", false, "NotAccepted", message)
        });
    }
    conditions.extend(approval_condition(definition));
    Decision {
        names,
        established,
        conditions,
    }
}

/// What is to be said about a kind in one of Kubernetes' own groups.
fn approval_condition(
    definition: &CustomResourceDefinition,
) -> Option<CustomResourceDefinitionCondition> {
    let (set, reason, message) = match approval(definition) {
        Approval::NotNeeded => return None,
        Approval::Missing => (
            false,
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?}, see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        Approval::Malformed(_) => (
            false,
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting \
                 with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        Approval::Bypassed(why) => (
            false,
            "UnapprovedAnnotation",
            format!("not approved: {why:?}"),
        ),
        Approval::Approved(url) => (true, "ApprovedAnnotation", format!("approved in {url}")),
    };
    Some(condition(
        "KubernetesAPIApprovalPolicyConformant",
        set,
        reason,
        message,
    ))
}

impl Decision {
    /// Writes the decision into a definition's JSON. Gives whether anything changed.
    pub fn write(&self, object: &mut Object, now: Timestamp) -> bool {
        let mut changed = false;
        for condition in &self.conditions {
            changed |= set(object, condition, now);
        }
        let names = serde_json::to_value(&self.names).unwrap_or(Value::Null);
        let status = meta::object_mut(object, "status");
        if status.get("acceptedNames") != Some(&names) {
            status.insert("acceptedNames".to_owned(), names);
            changed = true;
        }
        changed
    }
}
