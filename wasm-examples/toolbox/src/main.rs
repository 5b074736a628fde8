//! Small commands in one module: what to execute in a pod whose image has none.
//!
//! The first argument's file name says which command is meant, as in `kubectl exec POD -- ls /data`; if that is
//! `toolbox` itself, the second argument does. Each command is a function from its arguments to an exit code; an error
//! that it returns is printed, and the code is then 1.

mod files;
mod net;
mod pod;
mod tar;
mod text;

use std::{io, process::ExitCode};

/// What a command returns: its exit code, or what to say.
type Outcome = Result<u8, String>;

/// A command: its name, and what it does with its arguments.
type Command = (&'static str, fn(&[String]) -> Outcome);

/// All of them, by name.
const COMMANDS: &[Command] = &[
    ("cat", files::cat),
    ("echo", text::echo),
    ("env", text::env),
    ("false", |_| Ok(1)),
    ("hostname", text::hostname),
    ("ipcs", pod::ipcs),
    ("kill", pod::kill),
    ("ls", files::ls),
    ("mkdir", files::mkdir),
    ("nc", net::nc),
    ("nslookup", net::nslookup),
    ("ps", pod::ps),
    ("pwd", text::pwd),
    ("rm", files::rm),
    ("sleep", text::sleep),
    ("tail", files::tail),
    ("tar", tar::run),
    ("test", files::test),
    ("true", |_| Ok(0)),
    ("wc", files::wc),
    ("wget", net::wget),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let Some((name, rest)) = command(&arguments) else {
        let names: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "usage: toolbox COMMAND [ARGUMENT...]\ncommands: {}",
            names.join(" ")
        );
        return ExitCode::from(127);
    };
    let Some((_, run)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        eprintln!("toolbox: {name}: not found");
        return ExitCode::from(127);
    };
    match run(rest) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("{name}: {message}");
            ExitCode::from(1)
        }
    }
}

/// The name of the command, and its arguments.
fn command(arguments: &[String]) -> Option<(&str, &[String])> {
    let (own, rest) = arguments.split_first()?;
    let own = own.rsplit('/').next().unwrap_or(own);
    let own = own.strip_suffix(".wasm").unwrap_or(own);
    if own != "toolbox" {
        return Some((own, rest));
    }
    let (name, rest) = rest.split_first()?;
    Some((name, rest))
}

/// Says which file an error is about.
fn about(path: &str) -> impl FnOnce(io::Error) -> String + '_ {
    move |error| format!("{path}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(arguments: &[&str]) -> Vec<String> {
        arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect()
    }

    #[test]
    fn the_name_says_which_command_it_is() {
        for (arguments, name, count) in [
            (&["/bin/ls", "-l"][..], "ls", 1),
            (&["toolbox", "cat", "a", "b"], "cat", 2),
            (&["/opt/toolbox.wasm", "env"], "env", 0),
        ] {
            let arguments = owned(arguments);
            let (found, rest) = command(&arguments).unwrap();
            assert_eq!((found, rest.len()), (name, count));
        }
        assert!(command(&owned(&["toolbox"])).is_none());
        assert!(COMMANDS.is_sorted_by_key(|(name, _)| *name));
    }
}
