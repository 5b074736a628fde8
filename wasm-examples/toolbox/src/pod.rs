//! Commands about the pod: its processes, and what they share without a network.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use vaquita_guest::process::{self, Signal, State};
use vaquita_guest::{queues, semaphores, shared_memory};

use crate::Outcome;

/// `ps`: the processes that this one may know.
pub(crate) fn ps(_arguments: &[String]) -> Outcome {
    let mut text = format!(
        "{:>5} {:<20} {:<5} {:>10} {:>10} COMMAND\n",
        "PID", "CONTAINER", "STATE", "CPU", "MEMORY"
    );
    for one in process::list() {
        let state = match one.state {
            State::Running => "run",
            State::Terminating => "end",
        };
        let cpu = Duration::from_nanos(one.cpu_time);
        let _ = writeln!(
            text,
            "{:>5} {:<20} {state:<5} {:>9.2}s {:>9}K {}",
            one.id,
            one.container,
            cpu.as_secs_f64(),
            one.memory >> 10,
            one.command.join(" "),
        );
    }
    print(&text)
}

/// `kill [-9|-KILL|-15|-TERM] PID...`
pub(crate) fn kill(arguments: &[String]) -> Outcome {
    let (signal, ids) = match arguments.split_first() {
        Some((option, ids)) if option.starts_with('-') => (signal(option)?, ids),
        _ => (Signal::Term, arguments),
    };
    if ids.is_empty() {
        return Err("usage: kill [-KILL|-TERM] PID...".into());
    }
    for id in ids {
        let number = id
            .parse()
            .map_err(|_| format!("{id}: not a process number"))?;
        let sent = process::send_signal(number, signal);
        sent.map_err(|_| format!("{id}: no such process"))?;
    }
    Ok(0)
}

fn signal(option: &str) -> Result<Signal, String> {
    match option.trim_start_matches('-').trim_start_matches("SIG") {
        "9" | "KILL" => Ok(Signal::Kill),
        "15" | "TERM" => Ok(Signal::Term),
        _ => Err(format!("{option}: there are KILL and TERM")),
    }
}

/// `ipcs`: message queues, semaphores and shared memory of the pod.
pub(crate) fn ipcs(_arguments: &[String]) -> Outcome {
    let mut text = String::from("QUEUE                MESSAGES  MOST  LONGEST\n");
    for one in queues::list() {
        let attributes = one.attributes;
        let _ = writeln!(
            text,
            "{:<20} {:>8} {:>5} {:>8}",
            one.name, one.messages, attributes.max_messages, attributes.max_message_size
        );
    }
    text += "\nSEMAPHORE               VALUE\n";
    for one in semaphores::list() {
        let _ = writeln!(text, "{:<20} {:>8}", one.name, one.value);
    }
    text += "\nMEMORY                  BYTES\n";
    for one in shared_memory::list() {
        let _ = writeln!(text, "{:<20} {:>8}", one.name, one.size);
    }
    print(&text)
}

fn print(text: &str) -> Outcome {
    let written = io::stdout().write_all(text.as_bytes());
    written.map(|()| 0).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for option in ["-9", "-KILL", "-SIGKILL"] {
            assert!(matches!(signal(option), Ok(Signal::Kill)), "{option}");
        }
        assert!(matches!(signal("-TERM"), Ok(Signal::Term)));
        assert!(signal("-HUP").is_err());
    }
}
