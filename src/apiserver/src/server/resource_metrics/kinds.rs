//! `PodMetrics` and `NodeMetrics`, which are only ever read.

use std::error::Error;

use jiff::Timestamp;
use serde_json::{Value, json};
use vaquita_api::{
    Object,
    field::Errors,
    meta,
    names::{self, Problems},
    quantity::{Format, Quantity},
    registry::{Decoded, Part, Resource, Rules, Storage, Verb},
    schema::Schema,
    table::Column,
};

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// The entries of the registry.
pub(crate) fn resources() -> Vec<Resource> {
    vec![
        resource("NodeMetrics", "nodes", false),
        resource("PodMetrics", "pods", true),
    ]
}

fn resource(kind: &str, plural: &str, namespaced: bool) -> Resource {
    Resource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: vec![Verb::Get, Verb::List],
        subresources: Vec::new(),
        scale: None,
        selectable: Vec::new(),
        storage: Storage::Nowhere,
        rules: Box::new(Measured {
            schema: Schema::of::<Value>(),
            open_api: open_api(namespaced),
        }),
    }
}

fn open_api(of_pods: bool) -> Value {
    let usage = json!({
        "type": "object", "description": "What is used, by the name of the resource: cpu in cores, memory in bytes.",
        "additionalProperties": { "type": "string" },
    });
    let mut properties = json!({
        "timestamp": { "type": "string", "format": "date-time", "description": "The end of the window." },
        "window": { "type": "string", "description": "Over how long the use of the CPU was measured." },
    });
    if of_pods {
        properties["containers"] = json!({
            "type": "array", "description": "What each container uses.",
            "items": { "type": "object", "properties": { "name": { "type": "string" }, "usage": usage } },
        });
    } else {
        properties["usage"] = usage;
    }
    json!({ "type": "object", "properties": properties })
}

/// The rules of what nobody writes: only the columns matter.
struct Measured {
    schema: Schema,
    open_api: Value,
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::string("cpu", "The cores that are in use."),
    Column::string("memory", "The bytes that are in use."),
    Column::string("Window", "Over how long the use of the CPU was measured."),
];

impl Rules for Measured {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn open_api(&self) -> Option<&Value> {
        Some(&self.open_api)
    }

    fn merges_strategically(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn status_on_create(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        false
    }

    fn name_check(&self) -> fn(&str) -> Problems {
        names::dns1123_subdomain
    }

    fn decode(&self, _value: Value) -> Result<Decoded, Box<dyn Error + Send + Sync>> {
        Err("metrics are not written".into())
    }

    fn prepare_create(&self, _object: &mut Object) {}

    fn prepare_update(&self, _new: &mut Object, _old: &Object, _part: Part, _now: Timestamp) {}

    fn validate_create(&self, _object: &Object, _errors: &mut Errors) {}

    fn validate_update(&self, _new: &Object, _old: &Object, _part: Part, _errors: &mut Errors) {}

    fn grace_period(&self, _object: &Object, _requested: Option<i64>) -> i64 {
        0
    }

    fn columns(&self) -> &[Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        row(object)
    }
}

/// The cells of a row; a pod's add its containers up.
fn row(object: &Object) -> Vec<Value> {
    let cells = ["cpu", "memory"].map(|name| match object.get("containers") {
        Some(containers) => total(containers, name),
        None => meta::at(object, &["usage", name])
            .cloned()
            .unwrap_or_default(),
    });
    let [cpu, memory] = cells;
    let window = object.get("window").cloned().unwrap_or_default();
    vec![meta::name(object).into(), cpu, memory, window]
}

fn total(containers: &Value, name: &str) -> Value {
    let format = if name == "cpu" {
        Format::DecimalSi
    } else {
        Format::BinarySi
    };
    let used = containers
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["usage"][name].as_str()?.parse().ok());
    let zero = Quantity::whole(0, format);
    let sum = used.fold(zero, |sum, one: Quantity| sum + one);
    sum.to_string().into()
}
