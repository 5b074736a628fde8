//! What every controller that keeps a number of replicas needs: which objects are its own, which go first, how not to
//! make one twice, how to start many without hammering on a wall.

mod batch;
mod claim;
mod expectations;
mod rank;

pub(crate) use batch::slow_start;
pub use claim::ClaimError;
pub(crate) use claim::claim;
pub use expectations::Expectations;
pub(crate) use rank::sort_for_deletion;

use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};

use crate::meta;

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
