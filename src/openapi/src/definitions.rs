//! The schemas, by name. References between them are `#/definitions/NAME` here, as in version 2.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding,
    policy::v1::Eviction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ListMeta, ObjectMeta, Patch, Status,
};
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use vaquita_api::registry::{Describe, Resource};
use vaquita_api::schema::{Grain, ListType, Merge, Schema, Type};

/// What references start with.
pub(crate) const REFERENCE: &str = "#/definitions/";

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The schemas of some resources, and of what they need.
pub(crate) struct Definitions {
    generator: SchemaGenerator,
    /// Those that do not come from types.
    declared: BTreeMap<String, Value>,
    /// How each type's fields merge, found by walking a kind's shape.
    annotations: BTreeMap<String, BTreeMap<String, Value>>,
    atomic: BTreeSet<String>,
    /// Fields that every object of a type has, but which need not be sent.
    optional: BTreeMap<String, Vec<String>>,
    /// The group, version and kind that a schema stands for.
    kinds: BTreeMap<String, Vec<Value>>,
}

/// A group, version and kind, as the extension names it.
pub(crate) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

impl Definitions {
    pub(crate) fn of(resources: &[&Resource]) -> Self {
        let settings = SchemaSettings::openapi3().with(|settings| {
            settings.definitions_path = REFERENCE.trim_start_matches('#').into();
            settings.meta_schema = None;
            settings.transforms.clear();
        });
        let mut definitions = Self {
            generator: settings.into_generator(),
            declared: BTreeMap::new(),
            annotations: BTreeMap::new(),
            atomic: BTreeSet::new(),
            optional: BTreeMap::new(),
            kinds: BTreeMap::new(),
        };
        for resource in resources {
            definitions.add(resource);
        }
        definitions
    }

    /// A reference to the schema of what is sent to and received from `kind`'s path.
    pub(crate) fn of_kind(&mut self, resource: &Resource, kind: (&str, &str, &str)) -> Value {
        let (group, version, name) = kind;
        if (group, version, name) == (&*resource.group, &*resource.version, &*resource.kind) {
            return reference(&self.name_of(resource));
        }
        match kind {
            ("autoscaling", "v1", "Scale") => self.beside::<Scale>(kind),
            ("policy", "v1", "Eviction") => self.beside::<Eviction>(kind),
            ("authentication.k8s.io", "v1", "TokenRequest") => self.beside::<TokenRequest>(kind),
            ("", "v1", "Binding") => self.beside::<Binding>(kind),
            // Options of streams come in the query; what flows is bytes.
            _ => json!({"type": "string"}),
        }
    }

    /// A reference to the schema of a kind that only a subresource has.
    fn beside<K: JsonSchema + DeserializeOwned>(
        &mut self,
        (group, version, name): (&str, &str, &str),
    ) -> Value {
        let described = self.described(SchemaGenerator::subschema_for::<K>);
        self.stands_for(&described, gvk(group, version, name));
        if let Some(name) = target(&described).map(str::to_owned) {
            let schema = Schema::of::<K>();
            self.annotate(&schema, schema.root(), &name);
        }
        described
    }

    /// A reference to the list of a kind.
    pub(crate) fn list_of(&mut self, resource: &Resource) -> Value {
        let item = self.name_of(resource);
        let name = match item.strip_suffix(&resource.kind) {
            Some(base) => format!("{base}{}", resource.list_kind),
            None => format!("{item}List"),
        };
        if !self.declared.contains_key(&name) {
            let metadata = self.described(SchemaGenerator::subschema_for::<ListMeta>);
            let list = list(resource, &item, metadata);
            self.declared.insert(name.clone(), list);
            let list = gvk(&resource.group, &resource.version, &resource.list_kind);
            self.kinds.insert(name.clone(), vec![list]);
        }
        reference(&name)
    }

    /// A reference to the body of deletions.
    pub(crate) fn delete_options(&mut self, resource: &Resource) -> Value {
        let schema = self.described(SchemaGenerator::subschema_for::<DeleteOptions>);
        let kind = gvk(&resource.group, &resource.version, "DeleteOptions");
        self.stands_for(&schema, kind);
        schema
    }

    /// A reference to the body of patches.
    pub(crate) fn patch(&mut self) -> Value {
        self.described(SchemaGenerator::subschema_for::<Patch>)
    }

    /// A reference to the answer of deletions.
    pub(crate) fn status(&mut self) -> Value {
        let schema = self.described(SchemaGenerator::subschema_for::<Status>);
        self.stands_for(&schema, gvk("", "v1", "Status"));
        schema
    }

    /// All of them.
    pub(crate) fn finish(mut self) -> Map<String, Value> {
        let mut all = self.generator.take_definitions(false);
        all.extend(self.declared);
        for (name, schema) in [
            (
                INT_OR_STRING,
                json!({"type": "string", "format": "int-or-string"}),
            ),
            (QUANTITY, json!({"type": "string"})),
        ] {
            if let Some(Value::Object(found)) = all.get_mut(name) {
                found.remove("x-kubernetes-int-or-string");
                found.extend(schema.as_object().cloned().unwrap_or_default());
            }
        }
        for (name, kinds) in self.kinds {
            if let Some(schema) = all.get_mut(&name) {
                // The name may come from the path or be made up; only of events upstream asks for it.
                if !name.ends_with(".Event") {
                    not_required(schema, &["metadata".to_owned()]);
                }
                schema["x-kubernetes-group-version-kind"] = kinds.into();
            }
        }
        for (name, fields) in self.optional {
            if let Some(schema) = all.get_mut(&name) {
                not_required(schema, &fields);
            }
        }
        for (name, fields) in self.annotations {
            let Some(properties) = all
                .get_mut(&name)
                .and_then(|schema| schema.get_mut("properties"))
            else {
                continue;
            };
            for (field, extensions) in fields {
                if let (Some(Value::Object(property)), Value::Object(extensions)) =
                    (properties.get_mut(&field), extensions)
                {
                    property.extend(extensions);
                }
            }
        }
        for name in self.atomic {
            if let Some(schema) = all.get_mut(&name) {
                schema["x-kubernetes-map-type"] = "atomic".into();
            }
        }
        all
    }

    fn described(&mut self, describe: Describe) -> Value {
        describe(&mut self.generator).to_value()
    }

    fn stands_for(&mut self, schema: &Value, kind: Value) {
        if let Some(name) = target(schema) {
            let kinds = self.kinds.entry(name.to_owned()).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }

    fn add(&mut self, resource: &Resource) {
        let name = self.name_of(resource);
        let kind = gvk(&resource.group, &resource.version, &resource.kind);
        if resource.describe().is_some() {
            let schema = resource.schema();
            self.annotate(schema, schema.root(), &name);
        } else {
            let metadata = self.described(SchemaGenerator::subschema_for::<ObjectMeta>);
            let declared = custom(resource.open_api(), metadata);
            self.declared.insert(name.clone(), declared);
        }
        self.stands_for(&reference(&name), kind);
    }

    /// The name of a kind's schema; built-in ones are described on the way.
    fn name_of(&mut self, resource: &Resource) -> String {
        if let Some(describe) = resource.describe() {
            let schema = self.described(describe);
            if let Some(name) = target(&schema) {
                return name.to_owned();
            }
        }
        let mut domain: Vec<&str> = resource.group.split('.').collect();
        domain.reverse();
        format!(
            "{}.{}.{}",
            domain.join("."),
            resource.version,
            resource.kind
        )
    }

    /// Notes how the fields of the struct that `ty` is merge, and those of the structs inside.
    fn annotate(&mut self, schema: &Schema, ty: &Type, name: &str) {
        let Some(structure) = schema.structure(ty) else {
            return;
        };
        if let Type::Struct(_, Grain::Atomic) = ty {
            self.atomic.insert(name.to_owned());
        }
        if self.annotations.contains_key(name) {
            return;
        }
        self.annotations.insert(name.to_owned(), BTreeMap::new());
        for field in structure.fields() {
            if field.omit_zero {
                let optional = self.optional.entry(name.to_owned()).or_default();
                optional.push(field.name.clone());
            }
            let extensions = extensions(&field.ty, field.merge);
            if extensions.as_object().is_some_and(|map| !map.is_empty()) {
                let fields = self.annotations.entry(name.to_owned()).or_default();
                fields.insert(field.name.clone(), extensions);
            }
            let inner = innermost(&field.ty);
            if schema.structure(inner).is_some()
                && let Some(next) = self.field_target(name, &field.name)
            {
                self.annotate(schema, inner, &next);
            }
        }
    }

    /// The schema that a field of another one, or an item of it, refers to.
    fn field_target(&self, name: &str, field: &str) -> Option<String> {
        let property = self.generator.definitions().get(name)?["properties"].get(field)?;
        let mut property = property;
        loop {
            if let Some(name) = target(property) {
                return Some(name.to_owned());
            }
            property = property
                .get("items")
                .or_else(|| property.get("additionalProperties"))?;
        }
    }
}

/// A reference to a schema by its name.
pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REFERENCE}{name}")})
}

/// Takes fields from those that must be there.
fn not_required(schema: &mut Value, fields: &[String]) {
    let Some(Value::Array(required)) = schema.get_mut("required") else {
        return;
    };
    required.retain(|field| !fields.iter().any(|optional| field == optional));
    if required.is_empty()
        && let Value::Object(schema) = schema
    {
        schema.remove("required");
    }
}

fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)
}

/// What lists and maps are lists and maps of.
fn innermost(ty: &Type) -> &Type {
    match ty {
        Type::List(inner, _) | Type::Map(inner, _) => innermost(inner),
        other => other,
    }
}

/// What a field says about merging.
fn extensions(ty: &Type, merge: Merge) -> Value {
    let mut extensions = Map::new();
    let mut say = |name: &str, value: Value| {
        extensions.insert(format!("x-kubernetes-{name}"), value);
    };
    match ty {
        Type::List(_, ListType::Atomic) => say("list-type", "atomic".into()),
        Type::List(_, ListType::Set) => say("list-type", "set".into()),
        Type::List(_, ListType::Map(keys)) => {
            let names: Vec<&str> = keys.iter().map(|key| &*key.name).collect();
            say("list-map-keys", names.into());
            say("list-type", "map".into());
        }
        Type::Map(_, Grain::Atomic) => say("map-type", "atomic".into()),
        _ => {}
    }
    if let Some(key) = merge.key() {
        say("patch-merge-key", key.into());
    }
    match merge {
        Merge::Usual => {}
        Merge::Replace => say("patch-strategy", "replace".into()),
        Merge::Set | Merge::ByKey(_) => say("patch-strategy", "merge".into()),
        Merge::RetainKeys => say("patch-strategy", "retainKeys".into()),
        Merge::ByKeyRetainKeys(_) => say("patch-strategy", "merge,retainKeys".into()),
    }
    extensions.into()
}

const API_VERSION: &str = "The version of the schema that this object is written in.";
const KIND: &str = "The kind of the object, in CamelCase.";

fn list(resource: &Resource, item: &str, metadata: Value) -> Value {
    json!({
        "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": described(metadata, "The list's metadata."),
            "items": {
                "type": "array",
                "items": reference(item),
                "description": format!("The list's objects of kind {}.", resource.kind),
            },
        },
    })
}

/// The schema of a custom resource: as declared, and with what every object has.
fn custom(declared: Option<&Value>, metadata: Value) -> Value {
    let mut schema = match declared {
        Some(schema) if schema.is_object() => schema.clone(),
        _ => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    let mut properties = match schema["properties"].take() {
        Value::Object(properties) => properties,
        _ => Map::new(),
    };
    let common = [
        (
            "apiVersion",
            json!({"type": "string", "description": API_VERSION}),
        ),
        ("kind", json!({"type": "string", "description": KIND})),
        ("metadata", described(metadata, "The object's metadata.")),
    ];
    for (name, property) in common {
        properties.insert(name.to_owned(), property);
    }
    schema["properties"] = properties.into();
    schema
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}
