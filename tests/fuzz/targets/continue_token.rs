//! `continue` tokens of lists.
#![no_main]

use vaquita_api::continuation::Continuation;

libfuzzer_sys::fuzz_target!(|token: &str| {
    if let Ok(continuation) = Continuation::read(token) {
        let again = Continuation::read(&continuation.token()).expect("a token of ours");
        assert_eq!(again, continuation);
    }
});
