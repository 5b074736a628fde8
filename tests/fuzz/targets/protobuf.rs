//! Bodies in protobuf, up to the object that is made of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((resource, bytes)) = vaquita_fuzz::choose(data) else {
        return;
    };
    // Few inputs would find the envelope by themselves.
    let enveloped = [b"k8s\0\x12".as_slice(), &length(bytes.len()), bytes].concat();
    for bytes in [bytes, &enveloped] {
        if let Ok(parsed) = resource.parse_protobuf(bytes) {
            vaquita_fuzz::decode(resource, parsed.value);
        }
    }
});

fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while length >= 0x80 {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes
}
