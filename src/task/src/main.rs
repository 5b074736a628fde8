//! The project's everyday commands: `cargo task demo`, `cargo task test` and a few more.
//!
//! Each does all of its own set-up and says what it installs. The crate depends on nothing but std, so that it is
//! built in a moment on a machine where nothing else has been built yet.

mod fuzz;
mod guests;
#[cfg(test)]
mod links;
mod shell;
mod tools;

use std::{env, path::Path, process::ExitCode};

use shell::{Failure, cargo, exec, run, say};

const HELP: &str = "\
Usage: cargo task COMMAND

  demo [ARGS]    build everything and run `vaquita up --demo ARGS`
  test [ARGS]    run the whole suite: the guests' tests, then `cargo test --workspace ARGS`
  guests         build the guest programs of wasm-examples
  bench [ARGS]   build and run `vaquita bench ARGS`
  fuzz [SECONDS] run each fuzz target for some seconds (10)
  help           print this

Each installs what it needs, and says so. Environment:

  VAQUITA_PREBUILT_GUESTS=1   do not build the guests, use those that are in wasm-examples/target";

/// A command and the arguments that it passes on.
#[derive(Debug, PartialEq, Eq)]
enum Job {
    Demo(Vec<String>),
    Test(Vec<String>),
    Guests,
    Bench(Vec<String>),
    Fuzz(Vec<String>),
    Help,
}

fn main() -> ExitCode {
    let done = parse(env::args().skip(1)).and_then(|job| perform(&job));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\ncargo task: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Job, Failure> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next();
    let rest: Vec<_> = arguments.collect();
    let job = match name.as_deref() {
        Some("demo") => Job::Demo(rest),
        Some("test") => Job::Test(rest),
        Some("bench") => Job::Bench(rest),
        Some("fuzz") => Job::Fuzz(rest),
        Some("guests") if rest.is_empty() => Job::Guests,
        Some("guests") => {
            return Err(Failure(format!(
                "`guests` takes no arguments, not {rest:?}\n\n{HELP}"
            )));
        }
        None | Some("help" | "-h" | "--help") => Job::Help,
        Some(other) => return Err(Failure(format!("there is no command `{other}`\n\n{HELP}"))),
    };
    Ok(job)
}

fn perform(job: &Job) -> Result<(), Failure> {
    match job {
        Job::Demo(arguments) => {
            guests::build()?;
            vaquita(&["up", "--demo"], arguments)
        }
        Job::Test(arguments) => {
            tools::ensure()?;
            guests::build()?;
            say("testing what the guests do without WebAssembly");
            run(cargo()
                .args(["test", "--target-dir", "target"])
                .current_dir(guests::dir()))?;
            say("testing the workspace");
            run(cargo()
                .args(["test", "--workspace"])
                .args(arguments)
                .current_dir(root()))
        }
        Job::Guests => {
            guests::build()?;
            guests::print();
            Ok(())
        }
        Job::Bench(arguments) => vaquita(&["bench"], arguments),
        Job::Fuzz(arguments) => fuzz::all(arguments),
        Job::Help => {
            println!("{HELP}");
            Ok(())
        }
    }
}

/// Builds the optimised `vaquita` and becomes it. Comes back only with an error.
fn vaquita(command: &[&str], arguments: &[String]) -> Result<(), Failure> {
    say("building vaquita; the first time, this takes some minutes");
    run(cargo()
        .args([
            "build",
            "--release",
            "--package",
            "vaquita",
            "--bin",
            "vaquita",
        ])
        .current_dir(root()))?;
    // A relative directory counts from where cargo ran, which is the root; an absolute one replaces it.
    let target = root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    exec(target.join("release").join("vaquita"), command, arguments)
}

/// The repository's root, two folders above this crate.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Job, Failure> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn commands_pass_their_arguments_on() {
        assert_eq!(
            parsed("demo --data-dir d"),
            Ok(Job::Demo(vec!["--data-dir".to_owned(), "d".to_owned()]))
        );
        assert_eq!(
            parsed("test name -- --nocapture")
                .map(|job| matches!(job, Job::Test(rest) if rest.len() == 3)),
            Ok(true)
        );
        assert_eq!(parsed(""), Ok(Job::Help));
        assert_eq!(parsed("--help"), Ok(Job::Help));
    }

    #[test]
    fn a_mistake_gets_the_help() {
        for line in ["dmeo", "guests now"] {
            let failure = parsed(line).expect_err("a mistake");
            assert!(failure.to_string().contains("Usage:"), "{failure}");
        }
    }

    #[test]
    fn the_root_is_the_workspaces() {
        assert!(root().join("wasm-examples/Cargo.toml").is_file());
    }
}
