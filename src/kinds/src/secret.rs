//! `v1` Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::config_map::SIZE_MAX;
use crate::{Here, stored};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

pub(super) fn resource() -> Resource {
    stored::<Secret>("secret", true)
}

const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

impl Kind<Here> for Secret {
    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new("type", &["type"], "")];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Type", "What the secret is for."),
        Column::string("Data", "How many keys there are."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        // What was written as text is stored as bytes, and is never read back.
        for (key, text) in self.string_data.take().into_iter().flatten() {
            self.data
                .get_or_insert_default()
                .insert(key, ByteString(text.into_bytes()));
        }
        self.type_.get_or_insert_with(|| "Opaque".to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        let data = Path::root("data");
        let mut size = 0;
        for (key, value) in self.data.iter().flatten() {
            invalid(&data.key(key), key, names::config_map_key(key), errors);
            size += value.0.len();
        }
        if size > SIZE_MAX {
            errors.push(FieldError::too_long(&data, SIZE_MAX));
        }
        self.validate_type(errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        const FIXED: &str = "field is immutable when `immutable` is set";
        if self.type_ != old.type_ {
            let value = self.type_.clone().unwrap_or_default();
            errors.push(FieldError::invalid(
                &Path::root("type"),
                value,
                "field is immutable",
            ));
        }
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.push(FieldError::forbidden(&Path::root("immutable"), FIXED));
            }
            if self.data != old.data {
                errors.push(FieldError::forbidden(&Path::root("data"), FIXED));
            }
        }
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, BTreeMap::len);
        let kind = self.type_.clone().unwrap_or_default();
        vec![
            self.name_cell(),
            kind.into(),
            keys.into(),
            self.age_cell(now),
        ]
    }
}

trait TypeRules {
    fn validate_type(&self, errors: &mut Errors);
    fn need(&self, key: &str, errors: &mut Errors);
    fn need_json(&self, key: &str, errors: &mut Errors);
}

impl TypeRules for Secret {
    /// The well-known types promise certain keys.
    fn validate_type(&self, errors: &mut Errors) {
        match self.type_.as_deref().unwrap_or_default() {
            SERVICE_ACCOUNT_TOKEN => {
                let annotations = self.metadata.annotations.as_ref();
                let account =
                    annotations.and_then(|annotations| annotations.get(SERVICE_ACCOUNT_NAME));
                if account.is_none_or(String::is_empty) {
                    let metadata = Path::root("metadata");
                    let annotations = metadata.child("annotations");
                    errors.push(FieldError::required(
                        &annotations.key(SERVICE_ACCOUNT_NAME),
                        "",
                    ));
                }
            }
            "kubernetes.io/dockercfg" => self.need_json(".dockercfg", errors),
            "kubernetes.io/dockerconfigjson" => self.need_json(".dockerconfigjson", errors),
            "kubernetes.io/basic-auth" => {
                let has = |key| {
                    self.data
                        .as_ref()
                        .is_some_and(|data| data.contains_key(key))
                };
                if !has("username") && !has("password") {
                    self.need("username", errors);
                    self.need("password", errors);
                }
            }
            "kubernetes.io/ssh-auth" => {
                const KEY: &str = "ssh-privatekey";
                let key = self.data.as_ref().and_then(|data| data.get(KEY));
                if key.is_none_or(|key| key.0.is_empty()) {
                    errors.push(FieldError::required(&Path::root("data").key(KEY), ""));
                }
            }
            "kubernetes.io/tls" => {
                self.need("tls.crt", errors);
                self.need("tls.key", errors);
            }
            _ => {}
        }
    }

    fn need(&self, key: &str, errors: &mut Errors) {
        if self
            .data
            .as_ref()
            .is_none_or(|data| !data.contains_key(key))
        {
            errors.push(FieldError::required(&Path::root("data").key(key), ""));
        }
    }

    fn need_json(&self, key: &str, errors: &mut Errors) {
        self.need(key, errors);
        let value = self.data.as_ref().and_then(|data| data.get(key));
        // Whatever else it holds, it is an object.
        let parsed = value.map(|value| serde_json::from_slice::<Object>(&value.0));
        if let Some(Err(error)) = parsed {
            let detail = error.to_string();
            errors.push(FieldError::invalid(
                &Path::root("data").key(key),
                "<secret contents redacted>",
                detail,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn secret(kind: &str, data: &Value) -> Value {
        json!({"metadata": {"name": "s"}, "type": kind, "stringData": data})
    }

    #[test]
    fn keeps_texts_as_bytes() {
        let plain =
            json!({"metadata": {"name": "s"}, "data": {"a": "AA=="}, "stringData": {"a": "b"}});
        let secret = created(&resource(), plain);
        assert_eq!(secret["data"], json!({"a": "Yg=="}));
        assert!(!secret.contains_key("stringData"));
        assert_stable(&resource(), &secret);
        let row = resource().row(&secret, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..3], [json!("s"), json!("Opaque"), json!(1)]);
    }

    #[test]
    fn promises_what_its_type_promises() {
        let cases = [
            (
                "kubernetes.io/tls",
                json!({"tls.crt": ""}),
                "data[tls.key]: Required value",
            ),
            (
                "kubernetes.io/ssh-auth",
                json!({"ssh-privatekey": ""}),
                "data[ssh-privatekey]: Required value",
            ),
            (
                "kubernetes.io/dockerconfigjson",
                json!({}),
                "data[.dockerconfigjson]: Required value",
            ),
            (
                SERVICE_ACCOUNT_TOKEN,
                json!({}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
        ];
        for (kind, data, want) in cases {
            assert_eq!(refused(&resource(), secret(kind, &data)), [want]);
        }
        let no_object = secret("kubernetes.io/dockercfg", &json!({".dockercfg": "[]"}));
        let errors = refused(&resource(), no_object);
        assert!(
            errors[0]
                .starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\""),
            "{errors:?}"
        );
        let either = secret("kubernetes.io/basic-auth", &json!({"password": "p"}));
        created(&resource(), either);
    }

    #[test]
    fn keeps_its_type() {
        let old = created(&resource(), secret("a/b", &json!({})));
        let other = changed(&old, |secret| secret["type"] = "c/d".into());
        assert_eq!(
            causes(updated(&resource(), &old, other, Part::Main)),
            ["type: Invalid value: \"c/d\": field is immutable"]
        );
    }
}
