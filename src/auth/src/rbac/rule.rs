//! One rule of a role, and what it allows.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Attributes, Resource, Target};

/// One rule of a role: all of these verbs on all of these things. `*` stands for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// API groups; the core group is the empty text.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resources: Vec<String>,
    /// Paths that name no resource, `/healthz` or `/healthz/*`.
    #[serde(
        default,
        deserialize_with = "list",
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
    /// The only objects that the rule is about; empty for all.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resource_names: Vec<String>,
    /// What may be done.
    #[serde(default, deserialize_with = "list")]
    pub verbs: Vec<String>,
}

/// A list that may be null.
fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

/// Everything there is.
const ALL: &str = "*";

/// Whether `list` has `wanted` or the star.
pub(super) fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == ALL || own == wanted)
}

/// Whether the path `pattern`, which may end in a star, includes `path`.
pub(super) fn includes_path(pattern: &str, path: &str) -> bool {
    pattern == ALL
        || pattern == path
        || pattern
            .ends_with('*')
            .then(|| pattern.trim_end_matches('*'))
            .is_some_and(|start| path.starts_with(start))
}

/// Whether the entry `own` of a rule includes `resource` or, if that is not empty, its `subresource`.
pub(super) fn includes_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((of, sub)) => {
            !subresource.is_empty() && sub == subresource && (of == ALL || of == resource)
        }
    }
}

impl Rule {
    /// Everything: what `cluster-admin` holds.
    pub fn everything() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        let resources = Self {
            api_groups: all(),
            resources: all(),
            verbs: all(),
            ..Self::default()
        };
        let paths = Self {
            non_resource_urls: all(),
            verbs: all(),
            ..Self::default()
        };
        [resources, paths]
    }

    /// Whether the rule allows what `wanted` says.
    pub fn allows(&self, wanted: &Attributes<'_>) -> bool {
        has(&self.verbs, wanted.verb)
            && match wanted.target {
                Target::Resource(resource) => self.names(&resource),
                Target::Path(path) => self
                    .non_resource_urls
                    .iter()
                    .any(|own| includes_path(own, path)),
            }
    }

    fn names(&self, wanted: &Resource<'_>) -> bool {
        has(&self.api_groups, wanted.group)
            && self
                .resources
                .iter()
                .any(|own| includes_resource(own, wanted.resource, wanted.subresource))
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|own| own == wanted.name))
    }
}

/// As refusals show a rule: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        let mut separator = "";
        for (name, list) in parts {
            if !list.is_empty() {
                write!(f, "{separator}{name}:{}", quoted(list))?;
                separator = ", ";
            }
        }
        f.write_str("}")
    }
}

/// `["a" "b"]`.
pub(crate) fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}
