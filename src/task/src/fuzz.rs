//! Runs the fuzz targets of `tests/fuzz`, each for some seconds: a check that the corpus of a moment finds nothing, not a
//! campaign. For that, run `cargo fuzz run --fuzz-dir tests/fuzz -s none TARGET` as long as you like.

use std::{path::Path, process::Command};

use crate::{
    root,
    shell::{Failure, cargo, output, run, say},
};

/// How long each target runs.
const SECONDS: u32 = 10;
/// How long one input may take, in seconds, and how much memory all of them, in MiB: more means that something is not bounded.
const TIMEOUT: &str = "-timeout=10";
const MEMORY: &str = "-rss_limit_mb=2048";

/// Builds and runs all targets; `seconds` each.
pub(crate) fn all(arguments: &[String]) -> Result<(), Failure> {
    let seconds = match arguments {
        [] => SECONDS,
        [seconds] => seconds.parse().map_err(|_| {
            Failure(format!(
                "`fuzz` takes a number of seconds for each target, not `{seconds}`"
            ))
        })?,
        _ => return Err(Failure("`fuzz` takes one argument: seconds".to_owned())),
    };
    ensure_cargo_fuzz()?;
    let targets = targets(&root().join("tests/fuzz/targets"))?;
    say("building the fuzz targets; the first time, this takes some minutes");
    run(fuzz("build").args(["--sanitizer", "none"]))?;
    for target in targets {
        say(&format!("fuzzing {target} for {seconds} s"));
        let time = format!("-max_total_time={seconds}");
        run(fuzz("run").args([
            "--sanitizer",
            "none",
            &target,
            "--",
            &time,
            TIMEOUT,
            MEMORY,
            "-verbosity=0",
        ]))?;
    }
    Ok(())
}

fn fuzz(command: &str) -> Command {
    let mut fuzz = cargo();
    fuzz.args(["fuzz", command, "--fuzz-dir", "tests/fuzz"])
        .env("CARGO_TARGET_DIR", root().join("target/fuzz"))
        .current_dir(root());
    fuzz
}

fn ensure_cargo_fuzz() -> Result<(), Failure> {
    if output(cargo().args(["fuzz", "--version"])).is_some() {
        return Ok(());
    }
    say("installing cargo-fuzz (cargo install cargo-fuzz)");
    run(cargo().args(["install", "--locked", "cargo-fuzz"]))
}

/// The names of the targets, in their order.
fn targets(dir: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error| Failure(format!("cannot read {}: {error}", dir.display()));
    let mut targets = Vec::new();
    for entry in dir.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let Some(name) = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|own| own == "rs"))
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_built() {
        let manifest = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
        let targets = targets(&root().join("tests/fuzz/targets")).unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
        }
    }
}
