//! Cells that several of these kinds' tables have.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use serde_json::Value;
use vaquita_api::selector::LabelSelector;
use vaquita_api::table::Column;
use vaquita_kinds::print;

/// What the wide table says of the pods that are made.
pub(crate) const CONTAINERS: Column =
    Column::string("Containers", "The names of the template's containers.").wide();
/// See [`CONTAINERS`].
pub(crate) const IMAGES: Column =
    Column::string("Images", "The images of the template's containers.").wide();
/// Which pods belong to the object.
pub(crate) const SELECTOR: Column = Column::string("Selector", "Which pods are counted.").wide();

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(crate) fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let spec = template.and_then(|template| template.spec.as_ref());
    let (names, images) = print::containers(spec.map_or(&[], |spec| &spec.containers));
    [names, images]
}

/// A selector in the words of a query, `<none>` if it is empty, `<error>` if it can't be understood.
pub(crate) fn selector(selector: Option<&v1::LabelSelector>) -> Value {
    let Some(selector) = selector else {
        return print::NONE.into();
    };
    match LabelSelector::from_object(Some(selector)) {
        Ok(selector) => print::or_none(Some(&selector.to_string())),
        Err(_) => "<error>".into(),
    }
}
