//! Tokens by which machines join a cluster (`ID.SECRET`), kept as secrets `bootstrap-token-ID` in `kube-system`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use crate::User;

/// Where the secrets are.
pub const NAMESPACE: &str = "kube-system";
/// The type of the secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of everybody who has such a token; what other groups' names begin with, after a colon.
const GROUP: &str = "system:bootstrappers";

/// A text that has the form of such a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapToken<'t> {
    id: &'t str,
    secret: &'t str,
}

impl<'t> BootstrapToken<'t> {
    /// Reads `[a-z0-9]{6}.[a-z0-9]{16}`; `None` for everything else.
    pub fn parse(token: &'t str) -> Option<Self> {
        let (id, secret) = token.split_once('.')?;
        let plain = |text: &str, length| {
            text.len() == length
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (plain(id, 6) && plain(secret, 16)).then_some(Self { id, secret })
    }

    /// The name of the secret that would know it.
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// Who has the token, if the secret of type `kind` with this `data` (decoded) knows it and lets it log in.
    pub fn user(
        &self,
        kind: &str,
        data: &BTreeMap<String, Vec<u8>>,
        now: Timestamp,
    ) -> Option<User> {
        let text = |key: &str| {
            data.get(key)
                .and_then(|value| std::str::from_utf8(value).ok())
                .unwrap_or_default()
        };
        let same = bool::from(
            text("token-secret")
                .as_bytes()
                .ct_eq(self.secret.as_bytes()),
        );
        let usable = kind == TYPE
            && same
            && text("token-id") == self.id
            && !has_expired(text("expiration"), now)
            && text("usage-bootstrap-authentication") == "true";
        if !usable {
            return None;
        }
        let mut groups = vec![GROUP.to_owned()];
        for group in text("auth-extra-groups")
            .split(',')
            .map(str::trim)
            .filter(|group| !group.is_empty())
        {
            if !is_group(group) {
                return None;
            }
            if !groups.iter().any(|known| known == group) {
                groups.push(group.to_owned());
            }
        }
        Some(User::new(&format!("system:bootstrap:{}", self.id), groups))
    }
}

/// An expiration that cannot be read is over.
fn has_expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty()
        && expiration
            .parse::<Timestamp>()
            .map_or(true, |expiration| now > expiration)
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(group: &str) -> bool {
    let Some(rest) = group
        .strip_prefix(GROUP)
        .and_then(|rest| rest.strip_prefix(':'))
    else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(plain)
        && rest
            .bytes()
            .all(|byte| plain(byte) || byte == b':' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(changes: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ];
        usual
            .iter()
            .chain(changes)
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    fn user(token: &str, changes: &[(&str, &str)]) -> Option<User> {
        let now = "2029-12-31T23:59:59Z".parse().unwrap();
        BootstrapToken::parse(token)?.user(TYPE, &data(changes), now)
    }

    const TOKEN: &str = "abcdef.0123456789abcdef";

    #[test]
    fn a_token_names_its_groups() {
        let user = user(TOKEN, &[]).unwrap();
        assert_eq!(&*user.name, "system:bootstrap:abcdef");
        assert_eq!(
            *user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:workers",
                "system:authenticated"
            ]
        );
    }

    #[test]
    fn everything_about_it_must_be_right() {
        for changes in [
            ("token-id", "abcdeg"),
            ("token-secret", "0123456789abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
            ("expiration", "2029-12-31T23:59:58Z"),
            ("expiration", "soon"),
        ] {
            assert_eq!(user(TOKEN, &[changes]), None, "{changes:?}");
        }
        let (now, token) = (Timestamp::UNIX_EPOCH, BootstrapToken::parse(TOKEN).unwrap());
        assert_eq!(token.user("Opaque", &data(&[]), now), None);
        assert_eq!(token.secret_name(), "bootstrap-token-abcdef");
        for other in [
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abcdef0123456789abcdef",
            "abcdef.0123456789abcdef.x",
        ] {
            assert_eq!(BootstrapToken::parse(other), None, "{other}");
        }
    }
}
