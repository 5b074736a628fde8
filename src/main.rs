//! The `vaquita` command. What it can do is in [`vaquita::cli`]; how a cluster is put together is in
//! [`vaquita::cluster`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vaquita::cli::main()
}
