//! SPDY/3.1 frames from the other side of a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vaquita_streams::spdy::try_bytes(bytes);
});
