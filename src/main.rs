//! The `vaquita` command. What it can do is in [`vaquita::cli`]; how a cluster is put together is in
//! [`vaquita::cluster`].

use std::process::ExitCode;

/// The API's work is many small allocations on several threads, which take this one a good part less time than the
/// system's. Whoever embeds the library chooses for themselves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vaquita::cli::main()
}
