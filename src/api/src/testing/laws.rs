//! Laws that hold for every kind, whatever it is about.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use crate::apply::{self, ApplyError, Manager, Reset};
use crate::registry::{NewObject, Part, Registry, Resource, Storage};
use crate::schema::{Schema, SchemaOr, Type};
use crate::{Object, body, protobuf};

/// How many objects each law is tried on.
const CASES: u32 = 192;

/// Panics unless every law holds for each of `resources`.
pub fn hold(resources: Vec<Resource>) {
    let registry = Registry::new(resources);
    let resources: Vec<Arc<Resource>> = registry.iter().cloned().collect();
    for resource in &resources {
        entry_is_complete(&registry, resource);
        protobuf::testing::every_field_has_a_number(resource);
    }
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&any_object(&resources), |(resource, value)| {
        decodes_once_and_for_all(&resource, value)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let hostile = (any_object(&resources), junk(), any::<prop::sample::Index>());
    let outcome = runner.run(&hostile, |((resource, value), junk, at)| {
        survives_any_json(&resource, value, &junk, at)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn entry_is_complete(registry: &Registry, resource: &Resource) {
    let found = registry.get(&resource.group, &resource.version, &resource.plural);
    assert!(found.is_some_and(|found| std::ptr::eq(found.as_ref(), resource)));
    assert_eq!(resource.list_kind, format!("{}List", resource.kind));
    let labels: Vec<&str> = resource
        .selectable()
        .iter()
        .map(|field| &*field.label)
        .collect();
    assert_eq!(labels[0], "metadata.name");
    assert_eq!(
        labels.contains(&"metadata.namespace"),
        resource.namespaced,
        "{resource:?}"
    );
    assert!(
        resource
            .columns()
            .iter()
            .any(|column| column.format == "name")
    );
    let object = resource
        .decode(json!({"metadata": {"name": "a"}}))
        .unwrap()
        .object;
    let row = resource.row(&object, Timestamp::UNIX_EPOCH);
    assert_eq!(row.len(), resource.columns().len(), "{resource:?}");
}

fn is_nested(ty: &Type) -> bool {
    match ty {
        Type::Struct(..) | Type::SchemaOr(..) => true,
        Type::List(inner, _) | Type::Map(inner, _) => is_nested(inner),
        _ => false,
    }
}

/// Any value of a type, at most `depth` structs deep.
fn value_of(schema: &Schema, ty: &Type, depth: u32) -> BoxedStrategy<Value> {
    match ty {
        Type::String => "[a-z:/.]{0,3}".prop_map(Value::from).boxed(),
        Type::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Type::Int32 => any::<i32>().prop_map(Value::from).boxed(),
        Type::Int64 => any::<i64>().prop_map(Value::from).boxed(),
        Type::Float => any::<i16>()
            .prop_map(|n| Value::from(f64::from(n) / 4.0))
            .boxed(),
        Type::Time => Just(json!("2020-02-03T04:05:06.789+01:00")).boxed(),
        Type::MicroTime => Just(json!("2020-02-03T04:05:06Z")).boxed(),
        Type::Quantity => {
            prop::sample::select(vec![json!("1.5Gi"), json!(0.25), json!("3e3"), json!("0")])
                .boxed()
        }
        Type::IntOrString => prop_oneof![Just(json!(80)), Just(json!("http"))].boxed(),
        Type::Bytes => Just(json!("aGVs\nbG8=")).boxed(),
        Type::Any => prop::sample::select(vec![json!({"a": null}), json!([1]), json!("x")]).boxed(),
        Type::List(item, _) => prop::collection::vec(value_of(schema, item, depth), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Type::Map(entry, _) => {
            prop::collection::btree_map("[a-c]", value_of(schema, entry, depth), 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
                .boxed()
        }
        Type::SchemaOr(or, inner) => {
            let schema = value_of(schema, inner, depth);
            let other = match or {
                SchemaOr::Bool => any::<bool>().prop_map(Value::from).boxed(),
                SchemaOr::List => schema.clone().prop_map(|schema| json!([schema])).boxed(),
                SchemaOr::Names => Just(json!(["a"])).boxed(),
            };
            prop_oneof![schema, other].boxed()
        }
        Type::Struct(..) if depth == 0 => Just(json!({})).boxed(),
        Type::Struct(id, _) => {
            let fields = schema
                .get(*id)
                .fields()
                .iter()
                .filter(|field| !matches!(field.name.as_str(), "apiVersion" | "kind"));
            let fields: Vec<_> = fields
                .map(|field| {
                    let name = field.name.clone();
                    // Few of the many leaves at once, so that the deeper fields have their chance.
                    let weight = if is_nested(&field.ty) { 0.5 } else { 0.2 };
                    prop::option::weighted(weight, value_of(schema, &field.ty, depth - 1))
                        .prop_map(move |value| (name.clone(), value))
                })
                .collect();
            fields
                .prop_map(|fields| {
                    Value::Object(
                        fields
                            .into_iter()
                            .filter_map(|(name, value)| Some((name, value?)))
                            .collect::<Map<_, _>>(),
                    )
                })
                .boxed()
        }
    }
}

fn any_object(
    resources: &[Arc<Resource>],
) -> impl Strategy<Value = (Arc<Resource>, Value)> + use<> {
    prop::sample::select(resources.to_vec()).prop_flat_map(|resource| {
        let objects = value_of(resource.schema(), resource.schema().root(), 5);
        objects.prop_map(move |object| (resource.clone(), object))
    })
}

/// Whatever fits the schema decodes without loss of a field, and what has been decoded once stays as it is.
fn decodes_once_and_for_all(resource: &Resource, value: Value) -> Result<(), TestCaseError> {
    let once = match resource.decode(value) {
        Ok(decoded) => decoded,
        // The few times that no client leaves out.
        Err(status) => {
            prop_assert!(
                status.message().contains("missing field `last"),
                "{}",
                status
            );
            return Ok(());
        }
    };
    prop_assert!(once.unknown.is_empty());
    let twice = resource.decode(Value::Object(once.object.clone())).unwrap();
    prop_assert_eq!(&twice.object, &once.object);
    if let Storage::Shared { convert, .. } = &resource.storage {
        let stored = convert.to_stored(once.object.clone()).unwrap();
        let shown = resource
            .decode(Value::Object(convert.from_stored(stored).unwrap()))
            .unwrap();
        prop_assert_eq!(
            &shown.object["metadata"]["name"],
            &once.object["metadata"]["name"]
        );
    }
    survives_other_forms(resource, &once.object)?;
    has_owners(resource, &once.object)?;
    // None of these may panic on an object that is merely well-typed.
    let mut created = once.object.clone();
    let new = NewObject {
        namespace: "ns",
        now: Timestamp::UNIX_EPOCH,
        uid: "u".to_owned(),
        entropy: 1,
    };
    let placed = resource.prepare_create(&mut created, &new);
    let misplaced =
        !matches!(crate::meta::namespace(&once.object), "" | "ns") && resource.namespaced;
    let versioned = !matches!(crate::meta::resource_version(&once.object), "" | "0");
    prop_assert_eq!(placed.is_err(), misplaced || versioned);
    let _ = resource.validate_create(&created);
    for part in Part::ALL {
        let mut updated = once.object.clone();
        let _ = resource.prepare_update(&mut updated, &created, part, Timestamp::UNIX_EPOCH);
        let _ = resource.validate_update(&updated, &created, part);
    }
    prop_assert_eq!(
        resource.row(&created, Timestamp::UNIX_EPOCH).len(),
        resource.columns().len()
    );
    // What has been prepared is still of the kind's type.
    if placed.is_ok() {
        let again = resource.decode(Value::Object(created.clone())).unwrap();
        prop_assert_eq!(again.unknown, Vec::<String>::new());
    }
    Ok(())
}

/// Protobuf and YAML say the same as JSON.
fn survives_other_forms(resource: &Resource, object: &Object) -> Result<(), TestCaseError> {
    let object = protobuf::testing::without_unknown(resource.schema(), object);
    let read = protobuf::testing::there_and_back(resource, &object);
    let read = resource.decode(read.map_err(TestCaseError::fail)?).unwrap();
    prop_assert_eq!(&read.object, &object, "through protobuf");
    prop_assert!(read.unknown.is_empty());
    let yaml = serde_yaml::to_string(&object).unwrap();
    let read = resource
        .decode(body::yaml(yaml.as_bytes()).unwrap().value)
        .unwrap();
    prop_assert_eq!(&read.object, &object, "through YAML");
    Ok(())
}

/// Whoever applies an object owns it: applies it again for nothing, shares it with those who agree, and takes it away
/// again.
fn has_owners(resource: &Resource, object: &Object) -> Result<(), TestCaseError> {
    let schema = resource.schema();
    let mut wanted = object.clone();
    crate::meta::metadata_mut(&mut wanted).remove("managedFields");
    let manager = |name: &str| Manager {
        name: name.to_owned(),
        api_version: resource.api_version(),
        subresource: String::new(),
        time: Timestamp::UNIX_EPOCH,
        reset: Reset::Nothing,
    };
    let (a, b) = (manager("a"), manager("b"));
    let once = match apply::apply(schema, None, &wanted, &a, false) {
        Ok(once) => once,
        // Two items of a list with the same keys.
        Err(ApplyError::Configuration { mistakes, .. }) => {
            prop_assert!(mistakes.contains("duplicate entries"), "{}", mistakes);
            return Ok(());
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let bare = |object: &Object| {
        let mut bare = object.clone();
        crate::meta::metadata_mut(&mut bare).remove("managedFields");
        bare
    };
    prop_assert_eq!(&bare(&once), &wanted);
    let again = apply::apply(schema, Some(&once), &wanted, &a, false).unwrap();
    prop_assert_eq!(&again, &once);
    let shared = apply::apply(schema, Some(&once), &wanted, &b, false).unwrap();
    prop_assert_eq!(&bare(&shared), &wanted);
    let nothing = crate::testing::object(json!({
        "apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": "x"},
    }));
    let still = apply::apply(schema, Some(&shared), &nothing, &a, true).unwrap();
    let without_name = |object: &Object| {
        let mut bare = bare(object);
        crate::meta::metadata_mut(&mut bare).remove("name");
        bare
    };
    prop_assert_eq!(without_name(&still), without_name(&wanted));

    // What is created in another way is owned in the same form, and changes hands field by field.
    let mut created = wanted.clone();
    apply::track(schema, None, &mut created, &a);
    let mut changed = wanted.clone();
    apply::track(schema, Some(&created), &mut changed, &b);
    prop_assert_eq!(&changed, &created);
    let mut emptied = nothing;
    apply::track(schema, Some(&created), &mut emptied, &b);
    prop_assert!(!json!(emptied).to_string().contains("\"manager\":\"a\""));
    Ok(())
}

/// Anything else is refused, or decoded to something that is stable.
fn survives_any_json(
    resource: &Resource,
    mut value: Value,
    junk: &Value,
    at: prop::sample::Index,
) -> Result<(), TestCaseError> {
    let n = at.index(count(&value));
    replace_nth(&mut value, n, junk);
    if let Ok(decoded) = resource.decode(value) {
        let again = resource
            .decode(Value::Object(decoded.object.clone()))
            .unwrap();
        prop_assert_eq!(again.object, decoded.object);
    }
    Ok(())
}

fn junk() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(""),
        json!("ä"),
        json!([]),
        json!({}),
        json!([null]),
        json!({"x": null}),
        json!(9_999_999_999_i64),
        json!([[]]),
        json!(18_446_744_073_709_551_615_u64),
    ])
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Replaces the value that comes as the `n`th in a walk over all values. Gives how many are left to skip.
fn replace_nth(value: &mut Value, n: usize, junk: &Value) -> Option<usize> {
    if n == 0 {
        *value = junk.clone();
        return None;
    }
    let mut left = n - 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        left = replace_nth(child, left, junk)?;
    }
    Some(left)
}
