//! The back of a two-module pod: a TCP server on the pod's own loopback. A client sends a line with its name and
//! gets a line with a greeting.
//!
//! `GREETER_PORT` says where to listen, 7000 by default. One client is served after the other: what they send is one
//! line, and only the pod's own modules can reach this port.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::ExitCode,
};

/// The longest name that is read, in bytes.
const MAX_NAME: u64 = 256;

fn main() -> ExitCode {
    let port = env::var("GREETER_PORT").unwrap_or_else(|_| "7000".to_owned());
    let Ok(port) = port.parse::<u16>() else {
        eprintln!("greeter: GREETER_PORT is no port: {port:?}");
        return ExitCode::FAILURE;
    };
    match listen(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("greeter: cannot listen on 127.0.0.1:{port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("greeter: listening on 127.0.0.1:{port}");
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "an unnamed host".to_owned());
    loop {
        let (stream, peer) = listener.accept()?;
        match greet(stream, &host) {
            Ok(name) => println!("greeter: greeted {name}"),
            Err(error) => eprintln!("greeter: {peer} went away: {error}"),
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
        "good day, {name}, from the greeter in {host}"
    )?;
    Ok(name)
}
