//! What is served: groups, versions, resources; the classic documents and the aggregated one.

use std::{cmp::Reverse, sync::Arc};

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vaquita_api::registry::{Registry, Resource, Storage, Subresource, Verb};

use super::{Server, answer};
use crate::negotiation;

/// The groups in the order in which clients try them when a name alone is given, as upstream has it: of `events` those of
/// the core group are meant. Groups that are not listed come last, by name.
const ORDER: [&str; 20] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
];

/// The answer, if the path is one of discovery's.
pub(crate) fn answer(server: &Arc<Server>, parts: &Parts) -> Option<Response> {
    let registry = &*server.registry();
    let path = parts.uri.path().trim_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let aggregated = negotiation::aggregated_discovery(&parts.headers);
    let document = match (segments.as_slice(), aggregated) {
        (["api"], Some(version)) => return Some(self::aggregated(registry, version, true)),
        (["apis"], Some(version)) => return Some(self::aggregated(registry, version, false)),
        (["api"], None) => legacy_versions(registry),
        (["apis"], None) => group_list(registry),
        (["api", version], _) => resources(registry, "", version)?,
        (["apis", group], _) => group_document(registry, group)?,
        (["apis", group, version], _) if !group.is_empty() => resources(registry, group, version)?,
        _ => return None,
    };
    Some(answer::value(
        StatusCode::OK,
        &document,
        negotiation::encoding(&parts.headers),
    ))
}

fn legacy_versions(registry: &Registry) -> Value {
    let versions = registry.groups().remove("").unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

fn group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = named_groups(registry)
        .map(|(group, versions)| api_group(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_document(registry: &Registry, group: &str) -> Option<Value> {
    let (name, versions) = named_groups(registry).find(|(name, _)| *name == group)?;
    let mut document = api_group(name, &versions);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// All groups but the core.
fn named_groups(registry: &Registry) -> impl Iterator<Item = (&str, Vec<&str>)> {
    groups(registry).filter(|(name, _)| !name.is_empty())
}

/// All groups in their order, each with its versions, the preferred one first.
fn groups(registry: &Registry) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = registry.groups().into_iter().collect();
    let place = |name: &str| {
        ORDER
            .iter()
            .position(|own| *own == name)
            .unwrap_or(ORDER.len())
    };
    groups.sort_by_key(|(name, _)| (place(name), *name));
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| Rank::of(version));
    }
    groups.into_iter()
}

/// The place of a version among those of its group: stable ones first, then betas, then alphas, of each the highest number
/// first; names of another form come last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank<'v> {
    Stable(Reverse<u64>),
    Beta(Reverse<(u64, u64)>),
    Alpha(Reverse<(u64, u64)>),
    Other(&'v str),
}

impl<'v> Rank<'v> {
    fn of(version: &'v str) -> Self {
        Self::parse(version).unwrap_or(Self::Other(version))
    }

    fn parse(version: &str) -> Option<Self> {
        let rest = version.strip_prefix('v')?;
        let (stage, at) = match (rest.find("beta"), rest.find("alpha")) {
            (Some(at), _) => ("beta", at),
            (None, Some(at)) => ("alpha", at),
            (None, None) => return Some(Self::Stable(Reverse(rest.parse().ok()?))),
        };
        let numbers = Reverse((
            rest[..at].parse().ok()?,
            rest[at + stage.len()..].parse().ok()?,
        ));
        Some(match stage {
            "beta" => Self::Beta(numbers),
            _ => Self::Alpha(numbers),
        })
    }
}

fn api_group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// The resources of a group and version.
fn of_version<'r>(
    registry: &'r Registry,
    group: &'r str,
    version: &'r str,
) -> impl Iterator<Item = &'r Resource> {
    let own = move |resource: &&Resource| resource.group == group && resource.version == version;
    registry.iter().map(AsRef::as_ref).filter(own)
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    let mut names: Vec<_> = verbs.iter().map(|verb| verb.as_str()).collect();
    names.sort_unstable();
    names
}

/// `APIResourceList`.
fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in of_version(registry, group, version) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs(&resource.verbs),
        });
        if let Some(hash) = storage_version_hash(resource) {
            entry["storageVersionHash"] = hash.into();
        }
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        list.extend(
            resource
                .subresources
                .iter()
                .map(|subresource| subresource_entry(resource, subresource)),
        );
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// Changes when objects are stored in another form; for those who rewrite them then.
fn storage_version_hash(resource: &Resource) -> Option<String> {
    let (group, version) = match &resource.storage {
        Storage::Own | Storage::Versions { stored: true, .. } => {
            (&*resource.group, &*resource.version)
        }
        Storage::Shared { with, .. } => (with.0, with.1),
        Storage::Versions { .. } | Storage::Nowhere => return None,
    };
    let digest = Sha256::digest(format!("{group}/{version}/{}", resource.kind));
    Some(STANDARD.encode(&digest[..8]))
}

fn subresource_entry(resource: &Resource, subresource: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, subresource.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": subresource.kind,
        "verbs": verbs(&subresource.verbs),
    });
    // Said only where it is not the resource's own.
    if (&subresource.group, &subresource.version) != (&resource.group, &resource.version) {
        entry["group"] = subresource.group.clone().into();
        entry["version"] = subresource.version.clone().into();
    }
    entry
}

/// `APIGroupDiscoveryList`: everything below `/api` or `/apis` in one document.
fn aggregated(registry: &Registry, version: &str, legacy: bool) -> Response {
    let items: Vec<Value> = groups(registry)
        .filter(|(name, _)| name.is_empty() == legacy)
        .map(|(name, versions)| {
            let metadata = if name.is_empty() {
                json!({})
            } else {
                json!({"name": name})
            };
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = of_version(registry, name, version)
                        .map(aggregated_resource)
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let mut response = answer::value(StatusCode::OK, &document, negotiation::Encoding::Json);
    let kind =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(&resource.verbs),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresources = resource.subresources.iter().map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": kind(&subresource.group, &subresource.version, &subresource.kind),
                "verbs": verbs(&subresource.verbs),
            })
        });
        entry["subresources"] = subresources.collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_mature_version_comes_first() {
        let mut versions = [
            "foo", "v1alpha2", "v2beta1", "v10", "v1", "v2", "v2beta3", "v1beta1",
        ];
        versions.sort_by_key(|version| Rank::of(version));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v2beta3", "v2beta1", "v1beta1", "v1alpha2", "foo"
            ]
        );
    }
}
