//! An authenticated caller.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use sha2::{Digest as _, Sha256};

/// Names of groups and users that mean something to the API server itself.
pub mod groups {
    /// Those who may do everything.
    pub const MASTERS: &str = "system:masters";
    /// Everybody whom the API server knows.
    pub const AUTHENTICATED: &str = "system:authenticated";
    /// Everybody whom it does not.
    pub const UNAUTHENTICATED: &str = "system:unauthenticated";
    /// Every service account; with `:NAMESPACE` behind it, those of that namespace.
    pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    /// The user that is nobody in particular.
    pub const ANONYMOUS: &str = "system:anonymous";
}

/// What the name of every service account's user begins with.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// The attribute that tells which credential somebody used.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// An authenticated caller. Whoever builds one is trusted. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name, such as `kubernetes-admin` or `system:node:one`.
    pub name: Arc<str>,
    /// What tells users of the same name apart over time; empty for those who have no such thing.
    pub uid: Arc<str>,
    /// The groups it is in, such as `system:masters`.
    pub groups: Arc<[String]>,
    /// Further attributes by key, as authenticators hand them on.
    pub extra: Arc<BTreeMap<String, Vec<String>>>,
}

impl User {
    /// A user in `groups`; `system:authenticated` is added.
    pub fn new<G: Into<String>>(name: &str, groups: impl IntoIterator<Item = G>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == groups::AUTHENTICATED) {
            groups.push(groups::AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            uid: Arc::default(),
            groups: groups.into(),
            extra: Arc::default(),
        }
    }

    /// A part of this process, or whoever else may do everything: `name` in group `system:masters`.
    pub fn in_process(name: &str) -> Self {
        Self::new(name, [groups::MASTERS])
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            name: groups::ANONYMOUS.into(),
            uid: Arc::default(),
            groups: [groups::UNAUTHENTICATED.to_owned()].into(),
            extra: Arc::default(),
        }
    }

    /// The user that pods of the service account `name` in `namespace` are.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let own = format!("{}:{namespace}", groups::SERVICE_ACCOUNTS);
        Self {
            uid: uid.into(),
            ..Self::new(
                &service_account_name(namespace, name),
                [groups::SERVICE_ACCOUNTS.to_owned(), own],
            )
        }
    }

    /// The namespace and name of the service account that this user is, if it is one.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// The user of a client certificate (DER) that TLS has verified: its CN, in groups named by each O. `None` if it has
    /// no CN (the certificate then proves nothing that we could use).
    pub fn from_certificate(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups = subject
            .iter_organization()
            .filter_map(|value| value.as_str().ok());
        let mut credential = "X509SHA256=".to_owned();
        for byte in Sha256::digest(certificate) {
            // Writing into a String has no way to fail.
            let _ = write!(credential, "{byte:02x}");
        }
        Some(Self::new(name, groups).with_extra(CREDENTIAL, credential))
    }

    /// The same user, known by the token whose unique id is `jti`.
    pub(crate) fn with_token_id(self, jti: &str) -> Self {
        self.with_extra(CREDENTIAL, format!("JTI={jti}"))
    }

    /// The same user with one more attribute.
    #[must_use]
    pub fn with_extra(mut self, key: &str, value: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.extra)
            .entry(key.to_owned())
            .or_default()
            .push(value.into());
        self
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.is_in(groups::MASTERS)
    }
}

/// The name of the user that the service account `name` in `namespace` is.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT}{namespace}:{name}")
}

/// The reverse of [`service_account_name`].
pub(crate) fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let is_plain = |part: &str| !part.is_empty() && !part.contains(':');
    (is_plain(namespace) && is_plain(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_are_users_in_groups() {
        let user = User::service_account("shop", "web", "u1");
        assert_eq!(&*user.name, "system:serviceaccount:shop:web");
        assert_eq!(user.as_service_account(), Some(("shop", "web")));
        for group in [
            "system:serviceaccounts",
            "system:serviceaccounts:shop",
            "system:authenticated",
        ] {
            assert!(user.is_in(group), "{group}");
        }
        for name in [
            "system:serviceaccount:shop",
            "system:serviceaccount::web",
            "system:serviceaccount:a:b:c",
            "jane",
        ] {
            assert_eq!(split_service_account(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_nobody() {
        assert!(User::from_certificate(&[0x30, 0x82]).is_none());
    }
}
