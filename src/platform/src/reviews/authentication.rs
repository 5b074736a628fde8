//! `authentication.k8s.io/v1`: whose token is this, and who am I?

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview};

use super::review;
use crate::Here;
use crate::checks::token_lifetime;
use vaquita_api::field::{Errors, Path};
use vaquita_api::registry::{Kind, Resource};

/// How long a token lives if nothing else is asked for, in seconds.
const LIFETIME: i64 = 3600;

pub(super) fn token_review() -> Resource {
    review::<TokenReview>("tokenreview", false)
}

pub(super) fn self_subject_review() -> Resource {
    review::<SelfSubjectReview>("selfsubjectreview", false)
}

/// What is sent to the `token` subresource of service accounts. It is not a resource of its own: this entry is for reading
/// and checking it.
pub fn token_request() -> Resource {
    review::<TokenRequest>("token", true)
}

impl Kind<Here> for TokenReview {
    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
    }
}

impl Kind<Here> for SelfSubjectReview {
    fn apply_defaults(&mut self) {
        let status = self.status.get_or_insert_default();
        status.user_info.get_or_insert_default();
    }
}

impl Kind<Here> for TokenRequest {
    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.expiration_seconds.get_or_insert(LIFETIME);
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.expiration_seconds);
        let path = Path::root("spec");
        let path = path.child("expirationSeconds");
        token_lifetime(seconds.unwrap_or(LIFETIME), &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::testing::{created, refused};

    #[test]
    fn needs_no_name_and_gets_no_metadata() {
        let review = created(&token_review(), json!({"spec": {"token": "t"}}));
        assert_eq!(review["metadata"], json!({}));
        assert_eq!(review["spec"]["token"], "t");
        created(&self_subject_review(), json!({}));
    }

    #[test]
    fn asks_for_tokens_of_a_sensible_age() {
        let request = created(&token_request(), json!({}));
        assert_eq!(request["spec"]["expirationSeconds"], 3600);
        assert_eq!(
            refused(&token_request(), json!({"spec": {"expirationSeconds": 5}})),
            [
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
            ]
        );
    }
}
