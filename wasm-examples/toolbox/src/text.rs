//! Commands that touch no files.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use crate::{Outcome, about};

/// Prints its arguments.
pub(crate) fn echo(arguments: &[String]) -> Outcome {
    let (line, end) = match arguments.split_first() {
        Some((first, rest)) if first == "-n" => (rest.join(" "), ""),
        _ => (arguments.join(" "), "\n"),
    };
    write!(io::stdout(), "{line}{end}").map_err(about("stdout"))?;
    Ok(0)
}

/// Prints the environment, one variable in a line, or those that are named.
pub(crate) fn env(arguments: &[String]) -> Outcome {
    let mut out = io::stdout().lock();
    for (name, value) in std::env::vars() {
        if arguments.is_empty() || arguments.contains(&name) {
            writeln!(out, "{name}={value}").map_err(about("stdout"))?;
        }
    }
    Ok(0)
}

/// Prints the pod's hostname.
#[expect(clippy::unnecessary_wraps, reason = "every command has the same shape")]
pub(crate) fn hostname(_arguments: &[String]) -> Outcome {
    println!("{}", std::env::var("HOSTNAME").unwrap_or_default());
    Ok(0)
}

/// Prints the directory in which relative paths begin.
pub(crate) fn pwd(_arguments: &[String]) -> Outcome {
    let dir = std::env::current_dir().map_err(about("."))?;
    println!("{}", dir.display());
    Ok(0)
}

/// Waits so many seconds, which may have a fraction.
pub(crate) fn sleep(arguments: &[String]) -> Outcome {
    let [seconds] = arguments else {
        return Err("usage: sleep SECONDS".to_owned());
    };
    let length = seconds.parse().ok().map(Duration::try_from_secs_f64);
    let Some(Ok(length)) = length else {
        return Err(format!("{seconds:?} is no number of seconds"));
    };
    std::thread::sleep(length);
    Ok(0)
}
