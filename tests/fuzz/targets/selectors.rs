//! Label and field selectors, as queries carry them.
#![no_main]

use std::collections::BTreeMap;

use vaquita_api::selector::{FieldSelector, LabelSelector};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let _ = selector.matches(&labels);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|_| "web");
    }
});
