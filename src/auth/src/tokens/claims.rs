//! What is written in a token.

use serde::{Deserialize, Serialize};

/// An object of a certain uid: one that is deleted and made again under its name is another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What kind of object a token can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// The account itself; every token is bound to it.
    ServiceAccount,
    /// A pod of the account.
    Pod,
    /// A node.
    Node,
    /// A secret.
    Secret,
}

impl Bound {
    /// The plural in URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
            Self::Node => "nodes",
            Self::Secret => "secrets",
        }
    }

    /// What a token may be asked to be bound to, by `apiVersion` and `kind`.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Pod") => Some(Self::Pod),
            ("v1", "Node") => Some(Self::Node),
            ("v1", "Secret") => Some(Self::Secret),
            _ => None,
        }
    }
}

/// An object that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundObject {
    /// Its kind.
    pub kind: Bound,
    /// Which one.
    pub reference: Reference,
    /// The node of a pod that has one.
    pub node: Option<Reference>,
}

/// Everything in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is; a single one may be written without the list.
    #[serde(
        default,
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub aud: Vec<String>,
    /// Until when it is good, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Who issued it.
    #[serde(default)]
    pub iss: String,
    /// What tells it from every other token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Our own.
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Private,
    /// Since when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Whose it is: `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub sub: String,
    /// Of tokens that are kept in a secret and never end.
    #[serde(flatten)]
    pub legacy: Legacy,
}

/// What the account is, and what the token is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Private {
    /// The account's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// A node that it is bound to, or on which its pod is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// A pod that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// A secret that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serviceaccount: Option<Reference>,
    /// From when on its use is worth a warning: its holder was to ask for a new one by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The names that tokens in secrets have for the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Legacy {
    /// The account's namespace.
    #[serde(
        rename = "kubernetes.io/serviceaccount/namespace",
        skip_serializing_if = "Option::is_none"
    )]
    pub namespace: Option<String>,
    /// The secret that the token is in.
    #[serde(
        rename = "kubernetes.io/serviceaccount/secret.name",
        skip_serializing_if = "Option::is_none"
    )]
    pub secret: Option<String>,
    /// The account's name.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        skip_serializing_if = "Option::is_none"
    )]
    pub account: Option<String>,
    /// The account's uid.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        skip_serializing_if = "Option::is_none"
    )]
    pub uid: Option<String>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(from)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}
