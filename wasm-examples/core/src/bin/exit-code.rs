//! Exits at once with the code that is its first argument, 0 by default.
//!
//! A core module, because WASI 0.2 knows only success and failure: there, every code but 0 arrives as 1.

use std::{env, process};

fn main() {
    let code = env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    println!("exiting with {code}");
    process::exit(code.parse().unwrap_or(2));
}
