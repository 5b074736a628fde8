//! `ResourceClaimTemplate`: what the claims of pods look like.

use k8s_openapi::api::resource::v1::ResourceClaimTemplate;

use super::requests;
use crate::checks::immutable;
use crate::{Here, stored};
use vaquita_api::field::{Errors, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::validate::metadata::{annotations, labels};

pub(super) fn resource() -> Resource {
    stored::<ResourceClaimTemplate>("resourceclaimtemplate", true)
}

impl Kind<Here> for ResourceClaimTemplate {
    fn apply_defaults(&mut self) {
        self.spec.metadata.get_or_insert_default();
        self.spec.spec.devices.get_or_insert_default();
        requests::apply_defaults(&mut self.spec.spec);
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        if let Some(metadata) = &self.spec.metadata {
            let path = path.child("metadata");
            let given = metadata.annotations.iter().flatten();
            annotations(
                given.map(|(key, value)| (key.as_str(), value.as_str())),
                &path.child("annotations"),
                errors,
            );
            let given = metadata.labels.iter().flatten();
            labels(
                given.map(|(key, value)| (key.as_str(), value.as_str())),
                &path.child("labels"),
                errors,
            );
        }
        requests::validate(&self.spec.spec, &path.child("spec"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        immutable(&self.spec, &old.spec, &Path::root("spec"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[test]
    fn never_changes() {
        let request =
            json!({"name": "a", "firstAvailable": [{"name": "big", "deviceClassName": "gpu"}]});
        let template = json!({
            "metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [request]}}},
        });
        let old = created(&resource(), template.clone());
        assert_eq!(
            old["spec"]["spec"]["devices"]["requests"][0]["firstAvailable"][0]["count"],
            1
        );
        assert_stable(&resource(), &old);
        let other = changed(&old, |template| {
            template["spec"]["metadata"]["labels"]["a"] = "c".into();
        });
        let errors = causes(updated(&resource(), &old, other, Part::Main));
        assert!(errors[0].ends_with("field is immutable"), "{errors:?}");
        let mut wrong = template;
        wrong["spec"]["metadata"]["labels"]["a"] = "not ok".into();
        assert_eq!(refused(&resource(), wrong).len(), 1);
    }
}
