//! The greeter as a core module of WASI 0.1, which can accept connections but not make a listener: the host passes
//! one in as an open file descriptor, the first after standard error unless the first argument names another.
//!
//! A client sends a line with its name and gets a line with a greeting.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::FromRawFd as _,
    process::ExitCode,
};

/// The longest name that is read, in bytes.
const MAX_NAME: u64 = 256;
/// The first descriptor that a host can pass in.
const FIRST_PASSED: i32 = 3;

fn main() -> ExitCode {
    let descriptor = env::args()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(FIRST_PASSED);
    // SAFETY: nothing else in this program uses the descriptor. If it is no listener, accepting from it fails.
    #[expect(unsafe_code, reason = "the only way to a passed-in descriptor")]
    let listener = unsafe { TcpListener::from_raw_fd(descriptor) };
    println!("core-greeter: accepting from descriptor {descriptor}");
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "an unnamed host".to_owned());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("core-greeter: cannot accept from descriptor {descriptor}: {error}");
                return ExitCode::FAILURE;
            }
        };
        match greet(stream, &host) {
            Ok(name) => println!("core-greeter: greeted {name}"),
            Err(error) => eprintln!("core-greeter: a client went away: {error}"),
        }
    }
}

/// Serves one client and returns the name it gave.
fn greet(stream: TcpStream, host: &str) -> io::Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_NAME));
    reader.read_line(&mut line)?;
    let name: String = line.chars().filter(|letter| !letter.is_control()).collect();
    writeln!(
        reader.into_inner().into_inner(),
        "good day, {name}, from the core greeter in {host}"
    )?;
    Ok(name)
}
