//! `v1` `ServiceAccount`.

use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};

use crate::{Here, stored};
use vaquita_api::registry::{Kind, Resource, Verb};

pub(super) fn resource() -> Resource {
    stored::<ServiceAccount>("serviceaccount", true)
        .short(&["sa"])
        .sub(
            "token",
            ("authentication.k8s.io", "v1", "TokenRequest"),
            &[Verb::Create],
        )
}

impl Kind<Here> for ServiceAccount {
    fn apply_defaults(&mut self) {
        // Of the secrets that the account may use, only the names count.
        for secret in self.secrets.iter_mut().flatten() {
            *secret = ObjectReference {
                name: secret.name.take(),
                ..ObjectReference::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::testing::{assert_stable, created};

    #[test]
    fn knows_its_secrets_by_name() {
        let account =
            json!({"metadata": {"name": "a"}, "secrets": [{"kind": "Secret", "name": "s"}]});
        let account = created(&resource(), account);
        assert_eq!(account["secrets"], json!([{"name": "s"}]));
        assert_stable(&resource(), &account);
        let row = resource().row(&account, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("a"), json!("0s")]);
    }
}
