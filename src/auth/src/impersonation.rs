//! One user who acts as another, by the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY`.
//!
//! [`Impersonation::read`] reads the headers; [`Impersonation::checks`] tells what the real user must be allowed to
//! `impersonate`, one thing at a time; [`Impersonation::user`] is who the request is then from.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    User,
    rbac::{Attributes, Resource},
    user::{groups, split_service_account},
};

/// The group of the resources that attributes of users are.
const AUTHENTICATION: &str = "authentication.k8s.io";
const PREFIX: &str = "impersonate-";
const EXTRA: &str = "extra-";

/// Who a request wants to be from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Impersonation {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Attributes were given, but not whose they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("requested {0} without impersonating a user")]
pub struct NoUser(String);

impl Impersonation {
    /// Reads headers: names in lower case, with their values. `None` if there are none of these.
    pub fn read<'h>(
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<Option<Self>, NoUser> {
        let mut read = Self::default();
        for (name, value) in headers {
            match name.strip_prefix(PREFIX) {
                Some("user") if read.user.is_empty() => value.clone_into(&mut read.user),
                Some("uid") if read.uid.is_empty() => value.clone_into(&mut read.uid),
                Some("group") => read.groups.push(value.to_owned()),
                Some(name) => {
                    if let Some(key) = name.strip_prefix(EXTRA) {
                        let values = read.extra.entry(unescape(key)).or_default();
                        values.push(value.to_owned());
                    }
                }
                None => {}
            }
        }
        match read {
            Self { ref user, .. } if !user.is_empty() => Ok(Some(read)),
            empty if empty == Self::default() => Ok(None),
            Self {
                uid, groups, extra, ..
            } => Err(NoUser(format!(
                "uid {uid:?}, groups {groups:?}, extra {extra:?}"
            ))),
        }
    }

    /// What the real user must be allowed to do, in the order in which it is asked.
    pub fn checks(&self) -> impl Iterator<Item = Attributes<'_>> {
        let one = |group, resource, subresource, namespace, name| {
            let resource = Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
            };
            Attributes::resource("impersonate", resource)
        };
        let user = match split_service_account(&self.user) {
            Some((namespace, name)) => one("", "serviceaccounts", "", namespace, name),
            None => one("", "users", "", "", &self.user),
        };
        let groups = self
            .groups
            .iter()
            .map(move |group| one("", "groups", "", "", group));
        let extra = self.extra.iter().flat_map(move |(key, values)| {
            values
                .iter()
                .map(move |value| one(AUTHENTICATION, "userextras", key, "", value))
        });
        let uid = (!self.uid.is_empty()).then(|| one(AUTHENTICATION, "uids", "", "", &self.uid));
        [user].into_iter().chain(groups).chain(extra).chain(uid)
    }

    /// Who the request is from, once that is allowed.
    pub fn user(self) -> User {
        let mut names = self.groups;
        if names.is_empty()
            && let Some((namespace, _)) = split_service_account(&self.user)
        {
            names.push(groups::SERVICE_ACCOUNTS.to_owned());
            names.push(format!("{}:{namespace}", groups::SERVICE_ACCOUNTS));
        }
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let (known, unknown) = (has(groups::AUTHENTICATED), has(groups::UNAUTHENTICATED));
        if self.user == groups::ANONYMOUS {
            if !unknown {
                names.push(groups::UNAUTHENTICATED.to_owned());
            }
        } else if !known && !unknown {
            names.push(groups::AUTHENTICATED.to_owned());
        }
        User {
            name: self.user.into(),
            uid: self.uid.into(),
            groups: names.into(),
            extra: Arc::new(self.extra),
        }
    }
}

/// Header names cannot hold every character: keys of attributes come percent-encoded.
fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = (byte == b'%')
            .then(|| key.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(encoded.unwrap_or(byte));
        at += if encoded.is_some() { 3 } else { 1 };
    }
    // What does not decode is the key as it was written.
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Impersonation {
        Impersonation::read(headers.iter().copied())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn every_attribute_is_asked_for() {
        let wanted = read(&[
            ("accept", "application/json"),
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-extra-example.com%2Fscope", "view"),
            ("impersonate-uid", "u1"),
        ]);
        let asked: Vec<String> = wanted.checks().map(|check| check.refusal("bob")).collect();
        let cannot = |resource: &str, group: &str| {
            format!(
                "User \"bob\" cannot impersonate resource {resource:?} in API group {group:?} at the cluster scope"
            )
        };
        assert_eq!(
            asked,
            [
                cannot("users", ""),
                cannot("groups", ""),
                cannot("groups", ""),
                cannot("userextras/example.com/scope", AUTHENTICATION),
                cannot("uids", AUTHENTICATION),
            ]
        );
        let user = wanted.user();
        assert_eq!(*user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scope"], ["view"]);
        assert_eq!((&*user.name, &*user.uid), ("jane", "u1"));
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let wanted = read(&[("impersonate-user", "system:serviceaccount:shop:web")]);
        assert_eq!(
            wanted.checks().next().unwrap().refusal("bob"),
            "User \"bob\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"shop\""
        );
        assert_eq!(
            wanted.user().groups,
            User::service_account("shop", "web", "").groups
        );
    }

    #[test]
    fn nobody_stays_nobody() {
        let user = read(&[("impersonate-user", "system:anonymous")]).user();
        assert_eq!(user, User::anonymous());
    }

    #[test]
    fn attributes_need_a_user() {
        assert_eq!(Impersonation::read([("accept", "x")]), Ok(None));
        assert!(Impersonation::read([("impersonate-group", "system:masters")]).is_err());
        assert_eq!(unescape("a%2fb%zz%"), "a/b%zz%");
        assert_eq!(unescape("%ff"), "%ff");
        assert_eq!(unescape("%+1"), "%+1");
    }
}
