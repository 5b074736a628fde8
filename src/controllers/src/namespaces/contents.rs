//! Deleting everything in a namespace, and finding out what is left.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions, PropagationPolicy},
};

use vaquita_reconcile::{
    drive::chain,
    meta,
    served::{Metadata, Missing, Served, Survey},
};

/// How many resources are dealt with at the same time.
const AT_ONCE: usize = 8;
/// How many objects of a resource are listed at the same time.
const PAGE: u32 = 500;
/// A resource without these can't be emptied.
const DELETABLE: &[&str] = &["list", "delete"];

/// What stands between a namespace and its end.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What may be served but can't be looked at.
    pub(super) missing: Vec<Missing>,
    /// Why contents could not be deleted.
    pub(super) failures: Vec<String>,
    /// How many objects are left of each resource.
    pub(super) remaining: BTreeMap<String, usize>,
    /// How many objects wait for each finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// Whether the namespace is known to be empty.
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }

    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Empty => {}
            Outcome::Failed(failure) => self.failures.push(failure),
            Outcome::Remaining { resource, objects } => {
                self.remaining.insert(resource, objects.len());
                let held = objects
                    .into_iter()
                    .flat_map(|object| object.metadata.finalizers.unwrap_or_default());
                for finalizer in held {
                    *self.finalizers.entry(finalizer).or_default() += 1;
                }
            }
        }
    }
}

/// What became of one resource.
enum Outcome {
    Empty,
    Failed(String),
    Remaining {
        resource: String,
        objects: Vec<Metadata>,
    },
}

/// Asks for the deletion of everything in `namespace` and returns what is left after that: of pods, everything else is
/// still left untouched.
pub(super) async fn delete(client: &Client, namespace: &str, survey: Survey) -> Findings {
    let (pods, others): (Vec<Served>, Vec<Served>) = survey
        .resources
        .into_iter()
        .filter(|served| served.namespaced && served.supports(DELETABLE))
        .partition(|served| served.api.group.is_empty() && served.api.plural == "pods");
    let mut findings = Findings::default();
    empty_all(client, namespace, pods, &mut findings).await;
    if findings.is_empty() {
        empty_all(client, namespace, others, &mut findings).await;
    }
    findings.missing = survey.missing;
    findings
}

async fn empty_all(
    client: &Client,
    namespace: &str,
    resources: Vec<Served>,
    findings: &mut Findings,
) {
    let mut outcomes = stream::iter(resources)
        .map(
            async |served| match empty(client, namespace, &served).await {
                Ok(objects) if objects.is_empty() => Outcome::Empty,
                Ok(objects) => Outcome::Remaining {
                    resource: served.qualified_name(),
                    objects,
                },
                Err(error) => {
                    Outcome::Failed(format!("{}: {}", served.qualified_name(), chain(&error)))
                }
            },
        )
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        findings.add(outcome);
    }
    // They arrive in any order, and a condition that says the same in another order would be written anew.
    findings.failures.sort();
}

/// Asks for the deletion of all objects of one resource; returns those that are left.
async fn empty(
    client: &Client,
    namespace: &str,
    served: &Served,
) -> Result<Vec<Metadata>, kube::Error> {
    let api = served.metadata(client, namespace);
    let found = list(&api).await?;
    let unasked: Vec<&Metadata> = found
        .iter()
        .filter(|object| !meta::is_terminating(&object.metadata))
        .collect();
    if unasked.is_empty() {
        return Ok(found);
    }
    if served.supports(&["deletecollection"]) {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        api.delete_collection(&params, &ListParams::default())
            .await?;
    } else {
        for object in unasked {
            delete_one(&api, object).await?;
        }
    }
    list(&api).await
}

async fn delete_one(api: &Api<Metadata>, object: &Metadata) -> Result<(), kube::Error> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: object.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match api.delete(name, &params).await {
        Err(error) if !meta::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn list(api: &Api<Metadata>) -> Result<Vec<Metadata>, kube::Error> {
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            // The resource went between discovery and now, and its objects with it.
            Err(error) if meta::is_not_found(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        objects.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(objects),
        }
    }
}
