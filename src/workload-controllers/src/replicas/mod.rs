//! What every controller that keeps a number of replicas needs: which objects are its own, which go first, how not to
//! make one twice, how to start many without hammering on a wall. [`Keeper`] is all of it together, for a kind of pod
//! [`Owner`].

mod batch;
mod claim;
mod expectations;
mod hand;
mod keeper;
mod owner;
mod rank;
mod status;
pub(crate) mod template;

pub(crate) use batch::slow_start;
pub use claim::ClaimError;
pub(crate) use claim::{claim, dependents};
pub use expectations::Expectations;
pub(crate) use hand::Hand;
pub(crate) use keeper::Keeper;
pub use keeper::SyncError;
pub(crate) use owner::Owner;
pub(crate) use rank::sort_for_deletion;
pub(crate) use status::REPLICA_FAILURE;

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use serde::Serialize;
use vaquita_api::selector::LabelSelector as Selector;

use vaquita_reconcile::{informer::Watched, meta};

/// The selector of a workload, compiled. One that is absent, empty or unreadable (which the API server refuses) selects
/// nothing.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Selector {
    unless_empty(Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing()))
}

/// `selector`, or one of nothing if it would select everything there is.
pub(crate) fn unless_empty(selector: Selector) -> Selector {
    if selector.is_everything() {
        return Selector::nothing();
    }
    selector
}

/// Writes the status of `updated`, unless it is gone.
pub(crate) async fn write_status<K>(client: &Client, updated: &K) -> Result<(), kube::Error>
where
    K: Watched + Resource<Scope = NamespaceResourceScope> + Serialize,
{
    let namespace = updated.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let (name, params) = (updated.name_any(), PostParams::default());
    match api.replace_status(&name, &params, updated).await {
        Err(error) if !meta::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A count as the API has it.
pub(crate) fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// A new replica of `owner` after `template`, named by the API server.
pub(crate) fn pod_from_template<K: Resource<DynamicType = ()>>(
    owner: &K,
    template: &PodTemplateSpec,
) -> Pod {
    let model = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.namespace(),
            generate_name: Some(format!("{}-", owner.name_any())),
            labels: model.labels,
            annotations: model.annotations,
            finalizers: model.finalizers,
            owner_references: Some(vec![meta::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Which way a part of a pod goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rounding {
    Up,
    Down,
}

/// A number as it is, a percentage of `whole` rounded; nothing for what is neither.
pub(crate) fn resolve(value: Option<&IntOrString>, whole: i32, rounding: Rounding) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<u32>().ok());
            let parts = i64::from(percent.unwrap_or(0)) * i64::from(whole);
            let number = match rounding {
                Rounding::Up => (parts + 99) / 100,
                Rounding::Down => parts / 100,
            };
            i32::try_from(number).unwrap_or(i32::MAX)
        }
    }
}
