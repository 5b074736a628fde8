//! Tokens of a pod's service account, kept until they are to be renewed.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequestSpec},
    core::v1::{Pod, ServiceAccountTokenProjection},
};
use kube::ResourceExt as _;

use crate::{Sources, Token};

/// How long a token lasts if the manifest does not say: upstream's default, in seconds.
const DEFAULT_LIFE: i64 = 3600;
/// A token that lasts for longer is renewed once it is this old.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);
/// How soon a renewal that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// A token, and when it is to be replaced.
#[derive(Debug, Clone)]
struct Kept {
    text: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// What a token is for: its audience and the life that was asked for.
type Purpose = (Option<String>, i64);

/// The tokens of one pod.
#[derive(Debug, Default)]
pub struct Tokens {
    kept: HashMap<Purpose, Kept>,
}

impl Tokens {
    /// A token for what the manifest wants it for. One that is there is used until four fifths of its life are over, or
    /// it is a day old; it is also used if there is no new one and it is still good.
    pub async fn get(
        &mut self,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
        sources: &dyn Sources,
    ) -> kube::Result<String> {
        let audience = wanted.audience.clone().filter(|text| !text.is_empty());
        let life = wanted.expiration_seconds.unwrap_or(DEFAULT_LIFE);
        let purpose = (audience, life);
        let now = Timestamp::now();
        if let Some(kept) = self.kept.get(&purpose)
            && now < kept.renew_at
        {
            return Ok(kept.text.clone());
        }
        match request(pod, &purpose, sources).await {
            Ok(answer) => {
                let text = answer.text.clone();
                self.kept.insert(purpose, Kept::new(answer, now));
                Ok(text)
            }
            Err(error) => match self.kept.get_mut(&purpose) {
                Some(kept) if now < kept.expires_at => {
                    tracing::warn!(pod = pod.name_any(), %error, "cannot renew a token; the old one is still good");
                    kept.renew_at = now.saturating_add(RETRY).unwrap_or(Timestamp::MAX);
                    Ok(kept.text.clone())
                }
                _ => Err(error),
            },
        }
    }

    /// When the first of the tokens is to be renewed.
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.kept.values().map(|kept| kept.renew_at).min()
    }
}

impl Kept {
    fn new(answer: Token, now: Timestamp) -> Self {
        let life = answer
            .expires_at
            .duration_since(now)
            .max(SignedDuration::ZERO);
        let useful = (life * 4 / 5).min(OLDEST).max(RETRY);
        Self {
            text: answer.text,
            renew_at: now.saturating_add(useful).unwrap_or(Timestamp::MAX),
            expires_at: answer.expires_at,
        }
    }
}

async fn request(
    pod: &Pod,
    (audience, life): &Purpose,
    sources: &dyn Sources,
) -> kube::Result<Token> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let spec = TokenRequestSpec {
        audiences: Some(audience.iter().cloned().collect()),
        expiration_seconds: Some(*life),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        }),
    };
    let namespace = pod.namespace().unwrap_or_default();
    sources.token(&namespace, account, spec).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life_or_a_day() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (life, useful) in [(3600, 2880), (600, 480), (1_000_000, 86_400), (0, 10)] {
            let expires = Timestamp::from_second(1_000_000 + life).unwrap();
            let answer = Token {
                text: "t".to_owned(),
                expires_at: expires,
            };
            let kept = Kept::new(answer, now);
            assert_eq!(kept.renew_at.as_second() - now.as_second(), useful);
        }
    }
}
