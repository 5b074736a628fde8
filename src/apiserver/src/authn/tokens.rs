//! Bearer tokens that objects of the cluster stand behind: service accounts' and bootstrap tokens.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Deserialize;
use vaquita_api::{Object, meta};
use vaquita_auth::{
    User,
    bootstrap_token::{self, BootstrapToken},
    tokens::{Bound, Live, Lookup, TokenError},
};

use crate::server::Server;

/// The type of the secrets in which tokens of service accounts are.
const TOKEN_SECRET: &str = "kubernetes.io/service-account-token";

/// Whose a token is, and of the audiences that were asked for, which it is for.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

impl Server {
    /// Whose `token` is, for one of `audiences`. `None` if it is of no kind that we know.
    pub(crate) fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Known>, TokenError> {
        let now = Timestamp::now();
        if let Some(verified) = self
            .access
            .verifier()
            .and_then(|verifier| verifier.verify(token, audiences, now.as_second(), self))
        {
            let verified = verified?;
            let audiences = match verified.audiences {
                // A token in a secret is for the API itself.
                none if none.is_empty() => self.own_of(audiences),
                audiences => audiences,
            };
            return Ok(Some(Known {
                user: verified.user,
                audiences,
            }));
        }
        let joining = BootstrapToken::parse(token)
            .and_then(|token| self.by_bootstrap_token(token, now))
            .map(|user| Known {
                user,
                audiences: self.own_of(audiences),
            });
        Ok(joining)
    }

    /// Of these audiences, those that are this API.
    pub(crate) fn own_of(&self, audiences: &[String]) -> Vec<String> {
        let own = self.access.audiences();
        audiences
            .iter()
            .filter(|audience| own.contains(audience))
            .cloned()
            .collect()
    }

    fn by_bootstrap_token(&self, token: BootstrapToken<'_>, now: Timestamp) -> Option<User> {
        let secret = self.secret(bootstrap_token::NAMESPACE, &token.secret_name())?;
        if secret.metadata.deletion_timestamp.is_some() {
            return None;
        }
        token.user(&secret.kind, &secret.decoded(), now)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Secret> {
        let secrets = self.core("secrets")?;
        let entry = secrets.get(&secrets.key(Some(namespace), name))?;
        serde_json::from_slice(entry.json()).ok()
    }

    /// An object of the core group, as the cache has it.
    pub(crate) fn core_object(&self, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        // A name with a slash would be a key of another place.
        if name.is_empty() || name.contains('/') || namespace.contains('/') {
            return None;
        }
        let collection = self.core(plural)?;
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let entry = collection.get(&collection.key(namespace, name))?;
        entry.value().ok()
    }
}

/// What we need of a Secret.
#[derive(Deserialize)]
struct Secret {
    metadata: SecretMeta,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretMeta {
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

impl Secret {
    /// The data. What is not base64 is left out: validation lets none in.
    fn decoded(&self) -> BTreeMap<String, Vec<u8>> {
        let decode = |value: &String| STANDARD.decode(value).ok();
        self.data
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), decode(value)?)))
            .collect()
    }
}

impl Lookup for Server {
    fn find(&self, kind: Bound, namespace: &str, name: &str) -> Option<Live> {
        let object = self.core_object(kind.plural(), namespace, name)?;
        let deleted = meta::deletion_timestamp(&object);
        Some(Live {
            uid: meta::uid(&object).to_owned(),
            deleted: deleted.map(Timestamp::as_second),
        })
    }

    fn secret_token(&self, namespace: &str, name: &str) -> Option<Vec<u8>> {
        let secret = self.secret(namespace, name)?;
        (secret.kind == TOKEN_SECRET)
            .then(|| secret.decoded().remove("token"))
            .flatten()
    }
}
