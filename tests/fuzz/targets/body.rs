//! Bodies in JSON and YAML, up to the object that is made of them.
#![no_main]

use vaquita_api::body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((resource, text)) = vaquita_fuzz::choose(data) else {
        return;
    };
    for parsed in [body::json(text), body::yaml(text)] {
        if let Ok(parsed) = parsed {
            vaquita_fuzz::decode(resource, parsed.value);
        }
    }
});
