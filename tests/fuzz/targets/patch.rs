//! Patches of all kinds, on an object with lists of every sort.
#![no_main]

use serde_json::{Value, json};
use vaquita_api::body;
use vaquita_api::patch::{self, PatchType};

fn target() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}, "finalizers": ["a/b", "c/d"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}]},
        "spec": {
            "containers": [
                {"name": "a", "image": "x", "args": ["1", "2"], "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                {"name": "b", "image": "y"},
            ],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "nodeSelector": {"disk": "ssd"},
        },
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let kind = match kind % 3 {
        0 => PatchType::Json,
        1 => PatchType::Merge,
        _ => PatchType::Strategic,
    };
    let Ok(parsed) = body::json(text) else {
        return;
    };
    let (pods, _) = pods();
    let mut patched = target();
    if patch::apply(kind, &mut patched, parsed.value, pods.schema()).is_ok() {
        let _ = pods.decode(patched);
    }
});

/// The entry of pods among all kinds.
fn pods() -> (&'static vaquita_api::registry::Resource, usize) {
    (0..=u8::MAX)
        .find_map(|choice| {
            let choice = [choice];
            let (resource, _) = vaquita_fuzz::choose(&choice)?;
            (resource.plural == "pods").then_some((resource, usize::from(choice[0])))
        })
        .expect("pods are served")
}
