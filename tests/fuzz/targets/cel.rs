//! Rules of custom resources: parsed, checked and evaluated over values of all sorts.
#![no_main]

use serde_json::json;

libfuzzer_sys::fuzz_target!(|source: &str| {
    let value = json!({
        "name": "web", "count": 3, "share": 0.5, "on": true, "items": [1, 2, 3], "labels": {"a": "b"}, "none": null,
        "deep": {"list": [{"key": "k", "value": "1Gi"}]},
    });
    vaquita_crd::cel::exercise(source, &value);
});
