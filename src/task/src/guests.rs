//! The guest programs: their compile targets, their build, and what must come out of it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    root,
    shell::{Failure, cargo, output, run, say},
};

/// Guests that are built for one compile target.
struct Batch {
    target: &'static str,
    /// Which packages, in cargo's words; by default all but the core modules.
    packages: &'static [&'static str],
    /// Files that come out of it, without `.wasm`.
    guests: &'static [&'static str],
}

const BATCHES: [Batch; 3] = [
    Batch {
        target: "wasm32-wasip2",
        packages: &[],
        guests: &[
            "async_file_cases",
            "async_files",
            "async_greeter",
            "async_hello",
            "async_hoarder",
            "async_request_cases",
            "async_socket_cases",
            "async_sockets",
            "chatty",
            "consumer",
            "counter",
            "file-cases",
            "files",
            "greeter",
            "guestbook",
            "hello",
            "hoarder",
            "hungry",
            "kv",
            "lingering",
            "netbench",
            "processes",
            "producer",
            "relay",
            "request-cases",
            "shop",
            "socket-cases",
            "sockets-without-end",
            "spin",
            "talk",
            "toolbox",
            "trap-at-start",
            "upgrade-echo",
        ],
    },
    Batch {
        target: "wasm32-wasip1",
        packages: &["--package", "core-guests"],
        guests: &[
            "core-cases",
            "core-command",
            "core-files",
            "core-greeter",
            "exit-code",
        ],
    },
    Batch {
        target: "wasm32-wasip1-threads",
        packages: &["--package", "threads"],
        guests: &["threads"],
    },
];

/// Set to 1, the guests are taken as they are.
const PREBUILT: &str = "VAQUITA_PREBUILT_GUESTS";

/// The guests' workspace.
pub(crate) fn dir() -> PathBuf {
    root().join("wasm-examples")
}

/// Installs the compile targets where they are missing, and builds all guests.
pub(crate) fn build() -> Result<(), Failure> {
    if env::var_os(PREBUILT).is_some_and(|value| value == "1") {
        say("taking the guests as they are in wasm-examples/target");
        return BATCHES.iter().try_for_each(|batch| check(batch, &dir()));
    }
    for batch in &BATCHES {
        ensure_target(batch.target)?;
        say(&format!("building guests for {}", batch.target));
        run(cargo()
            .args(["build", "--release", "--target", batch.target])
            .args(batch.packages)
            // Where the guests are looked for afterwards, whatever the caller has chosen for the host's programs.
            .args(["--target-dir", "target"])
            .env_remove("CARGO_BUILD_TARGET")
            .env_remove("RUSTFLAGS")
            .current_dir(dir()))?;
        check(batch, &dir())?;
    }
    Ok(())
}

/// Prints where the guests are.
pub(crate) fn print() {
    for batch in &BATCHES {
        for guest in batch.guests {
            println!("wasm-examples/{}", file(batch.target, guest).display());
        }
    }
}

/// A guest's file, seen from the guests' workspace.
fn file(target: &str, guest: &str) -> PathBuf {
    ["target", target, "release", &format!("{guest}.wasm")]
        .iter()
        .collect()
}

fn check(batch: &Batch, dir: &Path) -> Result<(), Failure> {
    let missing = |guest: &&&str| !dir.join(file(batch.target, guest)).is_file();
    match batch.guests.iter().find(missing) {
        None => Ok(()),
        Some(guest) => Err(Failure(format!(
            "the guest wasm-examples/{} is missing",
            file(batch.target, guest).display()
        ))),
    }
}

fn ensure_target(target: &str) -> Result<(), Failure> {
    if is_installed(target) {
        return Ok(());
    }
    say(&format!(
        "installing Rust's standard library for {target} (rustup target add {target})"
    ));
    let installed = run(Command::new("rustup").args(["target", "add", target]));
    if is_installed(target) {
        Ok(())
    } else {
        Err(Failure(how_to_go_on(target, installed.err())))
    }
}

/// Whether the compiler has a standard library for `target`. Asks the compiler itself, which need not be rustup's.
fn is_installed(target: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    output(
        Command::new(rustc)
            .args(["--print", "target-libdir", "--target", target])
            .current_dir(dir()),
    )
    .is_some_and(|path| Path::new(path.trim()).is_dir())
}

fn how_to_go_on(target: &str, cause: Option<Failure>) -> String {
    let cause = cause.map_or_else(|| "it is still missing".to_owned(), |failure| failure.0);
    format!(
        "Rust's standard library for {target} is needed to build the guests, and could not be installed: {cause}
To go on, do one of these and run the command again:
  - where rustup's server is reached through a mirror, set RUSTUP_DIST_SERVER to it;
  - where Rust comes from the system's packages, install theirs for {target};
  - build on another machine by `cargo task guests`, copy its wasm-examples/target/wasm32-*/release/*.wasm to the
    same places here, and set {PREBUILT}=1."
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_target_that_does_not_exist_is_not_installed() {
        assert!(!is_installed("wasm32-made-up"));
    }

    #[test]
    fn what_cannot_be_installed_is_said_with_the_way_out() {
        let text = how_to_go_on("wasm32-wasip2", Some(Failure("no network".to_owned())));
        for part in [
            "wasm32-wasip2",
            "no network",
            "RUSTUP_DIST_SERVER",
            "VAQUITA_PREBUILT_GUESTS=1",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_missing_guest_is_named() {
        let dir = env::temp_dir().join(format!("vaquita-task-{}", std::process::id()));
        let batch = Batch {
            target: "t",
            packages: &[],
            guests: &["one", "two"],
        };
        fs::create_dir_all(dir.join("target/t/release")).expect("a directory");
        fs::write(dir.join("target/t/release/one.wasm"), "").expect("a file");
        let failure = check(&batch, &dir).expect_err("one is missing");
        fs::write(dir.join("target/t/release/two.wasm"), "").expect("a file");
        let complete = check(&batch, &dir);
        fs::remove_dir_all(&dir).expect("removed");
        assert!(failure.0.contains("two.wasm"), "{failure}");
        assert_eq!(complete, Ok(()));
    }

    #[test]
    fn every_program_of_the_guests_workspace_is_listed() {
        let listed: Vec<_> = BATCHES.iter().flat_map(|batch| batch.guests).collect();
        for bins in ["fixtures/src/bin", "core/src/bin"] {
            for entry in fs::read_dir(dir().join(bins)).expect("a directory") {
                let path = entry.expect("an entry").path();
                let name = path
                    .file_stem()
                    .and_then(|name| name.to_str())
                    .expect("a name");
                assert!(
                    listed.iter().any(|guest| **guest == name),
                    "{name} is not listed"
                );
            }
        }
    }
}
