//! `DeviceClass`: a sort of devices that claims may ask for.

use k8s_openapi::api::resource::v1::{DeviceClass, DeviceClassConfiguration};

use super::shared::{self, LIST_MAX, each};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};

pub(super) fn resource() -> Resource {
    stored::<DeviceClass>("deviceclass", false)
}

impl Kind<Here> for DeviceClass {
    const GENERATION: bool = true;

    fn validate(&self, errors: &mut Errors) {
        let (path, spec) = (Path::root("spec"), &self.spec);
        let given = spec.selectors.as_deref();
        shared::selectors(given, &path.child("selectors"), errors);
        each(
            spec.config.as_deref(),
            LIST_MAX,
            &path.child("config"),
            errors,
            |config: &DeviceClassConfiguration, path, errors| {
                shared::configuration(config.opaque.as_ref(), path, errors);
            },
        );
        let name = spec.extended_resource_name.as_deref();
        if let Some(name) = name.filter(|name| !is_extended_resource(name)) {
            let at = path.child("extendedResourceName");
            let detail = "must be a valid extended resource name";
            errors.push(FieldError::invalid(&at, name, detail));
        }
    }
}

/// A resource that the cluster's owner made up. A quota must be able to name it, too.
fn is_extended_resource(name: &str) -> bool {
    const QUOTA: &str = "requests.";
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with(QUOTA)
        && names::qualified_name(&format!("{QUOTA}{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use vaquita_api::testing::{assert_stable, created, refused};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn class(spec: Value) -> Value {
        json!({"metadata": {"name": "gpu"}, "spec": spec})
    }

    #[test]
    fn selects_and_configures() {
        let stored = created(
            &resource(),
            class(json!({
                "selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}],
                "config": [{"opaque": {"driver": "gpu.example.com", "parameters": {"mode": "fast"}}}],
                "extendedResourceName": "example.com/gpu",
            })),
        );
        assert_eq!(stored["metadata"]["generation"], 1);
        assert_stable(&resource(), &stored);
    }

    #[test]
    fn refuses_what_no_driver_could_read() {
        let parameters = |parameters: Value| {
            let opaque = json!({"driver": "gpu.example.com", "parameters": parameters});
            refused(&resource(), class(json!({"config": [{"opaque": opaque}]})))
        };
        assert_eq!(
            parameters(json!([])),
            [
                "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"
            ]
        );
        assert_eq!(
            parameters(json!({"a": "x".repeat(shared::TEXT_MAX)})),
            ["spec.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"]
        );
        assert_eq!(
            refused(
                &resource(),
                class(json!({"config": [{}], "extendedResourceName": "cpu"}))
            ),
            [
                "spec.config[0].opaque: Required value",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ]
        );
        let many = vec![json!({"cel": {"expression": "true"}}); 33];
        assert_eq!(
            refused(&resource(), class(json!({"selectors": many}))),
            ["spec.selectors: Too many: 33: must have at most 32 items"]
        );
    }
}
