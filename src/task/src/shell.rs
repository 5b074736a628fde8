//! Running other programs.

use std::{
    convert::Infallible,
    env,
    ffi::OsStr,
    fmt,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

/// Why a job could not be done, for a person to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells what happens next. To standard error, since standard output belongs to the program that is run in the end.
pub(crate) fn say(text: &str) {
    eprintln!("==> {text}");
}

/// The cargo that runs this program, or the one on the path.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure(format!("`{}` ended with {status}", line(command)))),
        Err(error) => Err(Failure(format!("cannot run `{}`: {error}", line(command)))),
    }
}

/// What a command prints to standard output, if it can be run and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes another program, so that signals reach it and its exit code is the one that is seen.
pub(crate) fn exec(
    program: impl AsRef<OsStr>,
    command: &[&str],
    arguments: &[String],
) -> Result<(), Failure> {
    let mut command = {
        let mut all = Command::new(program);
        all.args(command).args(arguments);
        all
    };
    say(&line(&command));
    let never: Result<Infallible, _> = Err(command.exec());
    never
        .map(|_| ())
        .map_err(|error| Failure(format!("cannot run `{}`: {error}", line(&command))))
}

/// The command as a person would type it, near enough.
fn line(command: &Command) -> String {
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named() {
        let failure = run(Command::new("false").arg("x")).expect_err("it fails");
        assert!(
            failure.0.starts_with("`false x` ended with exit status: 1"),
            "{failure}"
        );
        let failure = run(&mut Command::new("/no/such/program")).expect_err("it fails");
        assert!(
            failure.0.starts_with("cannot run `/no/such/program`: "),
            "{failure}"
        );
        assert_eq!(output(&mut Command::new("false")), None);
    }
}
