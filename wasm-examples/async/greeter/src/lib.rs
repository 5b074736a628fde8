//! An asynchronous command: greets each of its arguments, and fails if there is none.

use wasip3::{wit_bindgen, wit_stream};

struct Greeter;

impl wasip3::exports::cli::run::Guest for Greeter {
    async fn run() -> Result<(), ()> {
        let names = wasip3::cli::environment::get_arguments();
        let mut greetings = String::new();
        for name in names.iter().skip(1) {
            greetings += "Hello, ";
            greetings += name;
            greetings += "!\n";
        }
        if greetings.is_empty() {
            return Err(());
        }
        let (mut output, lines) = wit_stream::new();
        wit_bindgen::spawn_local(async move {
            output.write_all(greetings.into_bytes()).await;
        });
        wasip3::cli::stdout::write_via_stream(lines)
            .await
            .map_err(drop)
    }
}

wasip3::cli::command::export!(Greeter);
