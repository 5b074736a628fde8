//! An asynchronous command that makes streams without end, and keeps both ends of them.

use std::mem::forget;

use wasip3::wit_stream;

struct Hoarder;

impl wasip3::exports::cli::run::Guest for Hoarder {
    async fn run() -> Result<(), ()> {
        loop {
            forget(wit_stream::new::<u8>());
        }
    }
}

wasip3::cli::command::export!(Hoarder);
