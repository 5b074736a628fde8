//! What an API server serves, for controllers whose business is every kind there is.

use std::collections::HashSet;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResource, APIResourceList};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::PartialObjectMeta,
    discovery::{ApiResource, Scope},
};

/// An object of any kind of which only the metadata matters.
pub type Metadata = PartialObjectMeta<DynamicObject>;

/// A resource as one version of its group serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its names.
    pub api: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    fn new(group: &str, version: &str, resource: APIResource) -> Self {
        let api_version = match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        Self {
            api: ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version,
                kind: resource.kind,
                plural: resource.name,
            },
            namespaced: resource.namespaced,
            verbs: resource.verbs,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    /// One that supports nothing in particular, for tests.
    pub fn for_tests(api: ApiResource, namespaced: bool) -> Self {
        Self {
            api,
            namespaced,
            verbs: Vec::new(),
        }
    }

    /// Whether all of these verbs are served.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs
            .iter()
            .all(|wanted| self.verbs.iter().any(|verb| verb == wanted))
    }

    /// Whether this is a record of what happened rather than of what should be: an Event, of either group.
    pub fn is_events(&self) -> bool {
        self.api.plural == "events" && matches!(&*self.api.group, "" | "events.k8s.io")
    }

    /// The way to the metadata of its objects: in `namespace`, or in all of them if that is empty.
    pub fn metadata(&self, client: &Client, namespace: &str) -> Api<Metadata> {
        let scope = if self.namespaced {
            Scope::Namespaced
        } else {
            Scope::Cluster
        };
        Api::dynamic(client.clone(), &self.api, &scope).constrain(namespace)
    }

    /// `pods`, `deployments.apps`: the name that messages use.
    pub fn qualified_name(&self) -> String {
        match &*self.api.group {
            "" => self.api.plural.clone(),
            group => format!("{}.{group}", self.api.plural),
        }
    }
}

/// A group version whose resources could not be learned.
#[derive(Debug)]
pub struct Missing {
    /// `apps/v1`.
    pub group_version: String,
    /// Why.
    pub error: kube::Error,
}

impl Missing {
    /// The group's name.
    pub fn group(&self) -> &str {
        group_of(&self.group_version)
    }
}

/// The group of an `apiVersion`: empty for `v1`, `apps` for `apps/v1`.
pub fn group_of(api_version: &str) -> &str {
    api_version
        .split_once('/')
        .map_or("", |(group, _version)| group)
}

/// Everything that is served, each resource in one version only: that which its group prefers, if it is served there.
#[derive(Debug, Default)]
pub struct Survey {
    /// In the order in which the server tells them.
    pub resources: Vec<Served>,
    /// What the server announces but does not describe: an aggregated API that is down, for instance.
    pub missing: Vec<Missing>,
}

/// Asks the API server for everything that it serves. Fails only if it tells nothing at all.
pub async fn survey(client: &Client) -> Result<Survey, kube::Error> {
    let core = client.list_core_api_versions().await?;
    let groups = client.list_api_groups().await?.groups;
    let mut wanted: Vec<(String, String)> = core
        .versions
        .into_iter()
        .map(|version| (String::new(), version))
        .collect();
    for group in groups {
        wanted.extend(by_preference(group));
    }
    let answers = join_all(wanted.iter().map(|(group, version)| async move {
        if group.is_empty() {
            client.list_core_api_resources(version).await
        } else {
            let group_version = format!("{group}/{version}");
            client.list_api_group_resources(&group_version).await
        }
    }));
    Ok(combine(wanted.iter().zip(answers.await)))
}

/// The versions of a group, the preferred one first.
fn by_preference(group: APIGroup) -> impl Iterator<Item = (String, String)> {
    let preferred = group.preferred_version.map(|version| version.version);
    let mut versions: Vec<_> = group
        .versions
        .into_iter()
        .map(|version| version.version)
        .collect();
    versions.sort_by_key(|version| Some(version) != preferred.as_ref());
    versions
        .into_iter()
        .map(move |version| (group.name.clone(), version))
}

type Answer = Result<APIResourceList, kube::Error>;

fn combine<'a>(answers: impl Iterator<Item = (&'a (String, String), Answer)>) -> Survey {
    let mut survey = Survey::default();
    let mut taken = HashSet::new();
    for ((group, version), answer) in answers {
        match answer {
            Ok(list) => {
                for resource in list.resources {
                    let is_subresource = resource.name.contains('/');
                    if !is_subresource && taken.insert((group.clone(), resource.name.clone())) {
                        survey.resources.push(Served::new(group, version, resource));
                    }
                }
            }
            Err(error) => survey.missing.push(Missing {
                group_version: if group.is_empty() {
                    version.clone()
                } else {
                    format!("{group}/{version}")
                },
                error,
            }),
        }
    }
    survey
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupVersionForDiscovery;

    use super::*;
    use crate::testing::api::FakeApi;

    fn resource(name: &str) -> APIResource {
        APIResource {
            name: name.to_owned(),
            kind: "Thing".to_owned(),
            namespaced: true,
            verbs: vec!["list".to_owned(), "watch".to_owned()],
            ..APIResource::default()
        }
    }

    #[test]
    fn each_resource_is_taken_once_in_the_version_its_group_prefers() {
        let version = |version: &str| GroupVersionForDiscovery {
            group_version: format!("x/{version}"),
            version: version.to_owned(),
        };
        let group = APIGroup {
            name: "x".to_owned(),
            versions: vec![version("v2"), version("v1")],
            preferred_version: Some(version("v1")),
            ..APIGroup::default()
        };
        let wanted: Vec<_> = by_preference(group).collect();
        assert_eq!(wanted[0].1, "v1");
        let answers = [
            vec![resource("things"), resource("things/status")],
            vec![resource("things"), resource("newer")],
        ];
        let answers = answers.map(|resources| {
            Ok(APIResourceList {
                resources,
                ..APIResourceList::default()
            })
        });
        let survey = combine(wanted.iter().zip(answers));
        let names: Vec<_> = survey
            .resources
            .iter()
            .map(|served| (served.qualified_name(), served.api.api_version.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("things.x".to_owned(), "x/v1"),
                ("newer.x".to_owned(), "x/v2")
            ]
        );
    }

    #[test]
    fn a_group_that_fails_hides_no_other() {
        let wanted = [
            (String::new(), "v1".to_owned()),
            ("down".to_owned(), "v1beta1".to_owned()),
        ];
        let list = APIResourceList {
            resources: vec![resource("things")],
            ..APIResourceList::default()
        };
        let answers = [Ok(list), Err(kube::Error::LinesCodecMaxLineLengthExceeded)];
        let survey = combine(wanted.iter().zip(answers));
        assert_eq!(survey.resources.len(), 1);
        assert_eq!(survey.missing[0].group_version, "down/v1beta1");
        assert_eq!(survey.missing[0].group(), "down");
    }

    #[tokio::test]
    async fn a_server_is_asked_for_its_core_and_its_groups() {
        let survey = survey(&FakeApi::new().client()).await.unwrap();
        let served = |name: &str| {
            survey
                .resources
                .iter()
                .find(|served| served.qualified_name() == name)
        };
        assert!(served("nodes").is_some_and(|nodes| !nodes.namespaced));
        assert!(served("leases.coordination.k8s.io").is_some_and(|leases| leases.namespaced));
        assert!(served("events").is_some_and(Served::is_events));
        assert!(served("pods").is_some_and(|pods| pods.supports(&["list", "watch", "delete"])));
        assert!(survey.missing.is_empty());
    }
}
