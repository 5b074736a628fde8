//! The versions of a declared kind.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceSubresources, JSONSchemaProps, SelectableField,
};
use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{dns1035_label, dns1123_subdomain};

use super::schema;
use crate::structural::{JsonType, Node};

/// What the cells of a column may be.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
/// What a column's type may be said to be like.
const COLUMN_FORMATS: [&str; 10] = [
    "binary",
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "name",
    "password",
];
/// How many fields of a version selectors may name.
const SELECTABLE_MAX: usize = 8;

/// Whether a definition has been established.
pub(super) fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Established")
        .any(|condition| condition.status == "True")
}

/// What all versions have in common, if they do. Upstream speaks of it as of the definition's own, and so do the paths of
/// mistakes: `spec.validation` rather than `spec.versions[0].schema`.
fn shared<'v, T: PartialEq>(
    versions: &'v [CustomResourceDefinitionVersion],
    part: impl Fn(&'v CustomResourceDefinitionVersion) -> Option<T>,
) -> Option<T> {
    let (first, rest) = versions.split_first()?;
    let first = part(first)?;
    rest.iter()
        .all(|version| part(version).as_ref() == Some(&first))
        .then_some(first)
}

fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// Finds mistakes in the group, the scope and the versions.
pub(super) fn validate(spec: &CustomResourceDefinitionSpec, path: &Path<'_>, errors: &mut Errors) {
    group_and_scope(spec, path, errors);
    let versions_path = path.child("versions");
    for (index, version) in spec.versions.iter().enumerate() {
        if schema_of(version).is_none() {
            let at = versions_path.index(index);
            let at = at.child("schema");
            errors.push(FieldError::required(
                &at.child("openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    let mut names = HashSet::new();
    let mut unique = true;
    let in_common = InCommon::of(spec);
    for (index, version) in spec.versions.iter().enumerate() {
        let at = versions_path.index(index);
        unique &= names.insert(version.name.as_str());
        let problems = dns1035_label(&version.name);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(
                &at.child("name"),
                version.name.as_str(),
                problems.join(","),
            ));
        }
        deprecation(version, &at.child("deprecationWarning"), errors);
        in_common.validate_rest(version, &at, errors);
    }
    let all = || serde_json::to_value(&spec.versions).unwrap_or(Value::Null);
    if !unique {
        const DETAIL: &str = "must contain unique version names";
        errors.push(FieldError::invalid(&versions_path, all(), DETAIL));
    }
    if spec
        .versions
        .iter()
        .filter(|version| version.storage)
        .count()
        != 1
    {
        const DETAIL: &str = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&versions_path, all(), DETAIL));
    }
    in_common.validate(spec, path, errors);
}

fn group_and_scope(spec: &CustomResourceDefinitionSpec, path: &Path<'_>, errors: &mut Errors) {
    let group = path.child("group");
    let problems = dns1123_subdomain(&spec.group);
    if spec.group.is_empty() {
        errors.push(FieldError::required(&group, ""));
    } else if !problems.is_empty() {
        errors.push(FieldError::invalid(
            &group,
            spec.group.as_str(),
            problems.join(","),
        ));
    } else if !spec.group.contains('.') {
        const DETAIL: &str = "should be a domain with at least one dot";
        errors.push(FieldError::invalid(&group, spec.group.as_str(), DETAIL));
    }
    match spec.scope.as_str() {
        "" => errors.push(FieldError::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_listed(
            &path.child("scope"),
            other,
            &["Cluster", "Namespaced"],
        )),
    }
}

/// The parts that all versions share.
struct InCommon<'s> {
    schema: Option<&'s JSONSchemaProps>,
    subresources: Option<&'s CustomResourceSubresources>,
    columns: Option<&'s Vec<CustomResourceColumnDefinition>>,
    selectable: Option<&'s Vec<SelectableField>>,
}

impl<'s> InCommon<'s> {
    fn of(spec: &'s CustomResourceDefinitionSpec) -> Self {
        let versions = &spec.versions;
        Self {
            schema: shared(versions, schema_of),
            subresources: shared(versions, |version| version.subresources.as_ref()),
            columns: shared(versions, |version| {
                version.additional_printer_columns.as_ref()
            }),
            selectable: shared(versions, |version| version.selectable_fields.as_ref()),
        }
    }

    /// What a version does not share with the others.
    fn validate_rest(
        &self,
        version: &CustomResourceDefinitionVersion,
        at: &Path<'_>,
        errors: &mut Errors,
    ) {
        if let (None, Some(schema)) = (self.schema, schema_of(version)) {
            let status = has_status(version.subresources.as_ref());
            schema::validate(schema, status, &at.child("schema"), errors);
        }
        if let (None, Some(subresources)) = (self.subresources, &version.subresources) {
            validate_subresources(subresources, &at.child("subresources"), errors);
        }
        if let (None, Some(list)) = (self.columns, &version.additional_printer_columns) {
            columns(list, &at.child("additionalPrinterColumns"), errors);
        }
        if let (None, Some(fields)) = (self.selectable, &version.selectable_fields) {
            selectable(
                fields,
                schema_of(version),
                &at.child("selectableFields"),
                errors,
            );
        }
    }

    fn validate(&self, spec: &CustomResourceDefinitionSpec, path: &Path<'_>, errors: &mut Errors) {
        if let Some(schema) = self.schema {
            let status = spec
                .versions
                .iter()
                .any(|version| has_status(version.subresources.as_ref()));
            schema::validate(schema, status, &path.child("validation"), errors);
        }
        if let Some(subresources) = self.subresources {
            validate_subresources(subresources, &path.child("subresources"), errors);
        }
        if let Some(list) = self.columns {
            columns(list, &path.child("additionalPrinterColumns"), errors);
        }
        if let Some(fields) = self.selectable {
            let schema = self
                .schema
                .or_else(|| spec.versions.first().and_then(schema_of));
            selectable(fields, schema, &path.child("selectableFields"), errors);
        }
    }
}

fn has_status(subresources: Option<&CustomResourceSubresources>) -> bool {
    subresources.is_some_and(|subresources| subresources.status.is_some())
}

fn deprecation(version: &CustomResourceDefinitionVersion, at: &Path<'_>, errors: &mut Errors) {
    let Some(warning) = version.deprecation_warning.as_deref() else {
        return;
    };
    let mut wrong = |detail: String| errors.push(FieldError::invalid(at, warning, detail));
    if !version.deprecated.unwrap_or_default() {
        wrong("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// Finds mistakes in the subresources.
fn validate_subresources(
    subresources: &CustomResourceSubresources,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const SPEC: &str = "should be a json path under .spec";
    const STATUS: &str = "should be a json path under .status";
    const EITHER: &str = "should be a json path under either .spec or .status";
    let Some(scale) = &subresources.scale else {
        return;
    };
    let mut check = |field: &str, value: &str, roots: &[&str], detail: &str| {
        let at = path.child(field);
        if let Some(error) = simple_path(value, &at) {
            errors.push(error);
        } else if !roots.iter().any(|root| value.starts_with(root)) {
            errors.push(FieldError::invalid(&at, value, detail));
        }
    };
    check(
        "scale.specReplicasPath",
        &scale.spec_replicas_path,
        &[".spec."],
        SPEC,
    );
    check(
        "scale.statusReplicasPath",
        &scale.status_replicas_path,
        &[".status."],
        STATUS,
    );
    if let Some(selector) = scale
        .label_selector_path
        .as_deref()
        .filter(|path| !path.is_empty())
    {
        check(
            "scale.labelSelectorPath",
            selector,
            &[".spec.", ".status."],
            EITHER,
        );
    }
}

/// A path of field names, each behind a dot.
fn simple_path(text: &str, at: &Path<'_>) -> Option<FieldError> {
    if text.is_empty() {
        return Some(FieldError::required(at, ""));
    }
    (!text.starts_with('.'))
        .then(|| FieldError::invalid(at, text, "must be a simple json path starting with ."))
}

fn columns(columns: &[CustomResourceColumnDefinition], path: &Path<'_>, errors: &mut Errors) {
    for (index, column) in columns.iter().enumerate() {
        let at = path.index(index);
        if column.name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if column.type_.is_empty() {
            errors.push(FieldError::required(&at.child("type"), types));
        } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
            errors.push(FieldError::invalid(
                &at.child("type"),
                column.type_.as_str(),
                types,
            ));
        }
        let format = column.format.as_deref().unwrap_or_default();
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let formats = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(FieldError::invalid(&at.child("format"), format, formats));
        }
        let json_path = at.child("JSONPath");
        errors.extend(simple_path(&column.json_path, &json_path));
        if !column.json_path.is_empty()
            && let Err(error) = crate::jsonpath::JsonPath::parse(&column.json_path)
        {
            errors.push(FieldError::invalid(
                &json_path,
                column.json_path.as_str(),
                error.to_string(),
            ));
        }
    }
}

fn selectable(
    fields: &[SelectableField],
    schema: Option<&JSONSchemaProps>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if fields.is_empty() {
        return;
    }
    let Some(schema) = schema else {
        const DETAIL: &str =
            "selectableFields may only be set when version.schema.openAPIV3Schema is not included";
        errors.push(FieldError::invalid(path, "", DETAIL));
        return;
    };
    let root = Node::compile(schema);
    let mut seen = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index);
        let at = at.child("jsonPath");
        let text = field.json_path.as_str();
        if text.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let (names, found) = match named_field(text, &root) {
            Ok(found) => found,
            Err(why) => {
                let detail = format!("is an invalid path: {why}");
                errors.push(FieldError::invalid(&at, text, detail));
                continue;
            }
        };
        if names.first() == Some(&"metadata") {
            const DETAIL: &str = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&at, text, DETAIL));
        }
        let simple = matches!(
            found.ty,
            Some(JsonType::String | JsonType::Boolean | JsonType::Integer)
        );
        if !simple {
            const DETAIL: &str = "must point to a field of type string, boolean or integer. Enum string fields and \
                                  strings with formats are allowed.";
            errors.push(FieldError::invalid(&at, text, DETAIL));
        }
        if !seen.insert(names) {
            errors.push(FieldError::duplicate(&at, text));
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_MAX));
    }
}

/// The place that a path of names (`.spec.color`) leads to.
fn named_field<'n>(text: &'n str, root: &'n Node) -> Result<(Vec<&'n str>, &'n Node), String> {
    let Some(rest) = text.strip_prefix('.') else {
        return Err(format!("expected [ or . but got: {text}"));
    };
    if rest.contains('[') {
        return Err("array notation is not allowed".to_owned());
    }
    let names: Vec<&str> = rest.split('.').collect();
    let mut node = root;
    for name in &names {
        node = node
            .property(name)
            .ok_or_else(|| "does not refer to a valid field".to_owned())?;
    }
    Ok((names, node))
}

/// Finds what an update may not change.
pub(super) fn validate_update(
    new: &CustomResourceDefinition,
    old: &CustomResourceDefinition,
    errors: &mut Errors,
) {
    let spec = Path::root("spec");
    let names = spec.child("names");
    let mut same = |path: &Path<'_>, new: &str, old: &str| {
        if new != old {
            errors.push(FieldError::invalid(path, new, "field is immutable"));
        }
    };
    if is_established(old) {
        same(&spec.child("scope"), &new.spec.scope, &old.spec.scope);
        same(
            &names.child("kind"),
            &new.spec.names.kind,
            &old.spec.names.kind,
        );
    }
    same(&spec.child("group"), &new.spec.group, &old.spec.group);
    same(
        &names.child("plural"),
        &new.spec.names.plural,
        &old.spec.names.plural,
    );
    validate_stored(new, errors);
}

/// Versions that objects may be stored in have to stay.
pub(super) fn validate_stored(definition: &CustomResourceDefinition, errors: &mut Errors) {
    let status = Path::root("status");
    let path = status.child("storedVersions");
    let stored = definition
        .status
        .as_ref()
        .and_then(|status| status.stored_versions.clone())
        .unwrap_or_default();
    if stored.is_empty() {
        const DETAIL: &str = "must have at least one stored version";
        errors.push(FieldError::invalid(&path, stored, DETAIL));
        return;
    }
    let versions = &definition.spec.versions;
    for version in versions.iter().filter(|version| version.storage) {
        if !stored.contains(&version.name) {
            let detail = format!("must have the storage version {}", version.name);
            errors.push(FieldError::invalid(&path, stored.clone(), detail));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.name == *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                 {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(
                &path.index(index),
                name.as_str(),
                detail,
            ));
        }
    }
}
