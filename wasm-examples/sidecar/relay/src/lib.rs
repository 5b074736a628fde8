//! The front of a two-module pod: what comes by HTTP is asked of the greeter that lives in the same pod, over TCP
//! on the pod's own loopback.
//!
//! `GREETER_PORT` says where the greeter listens, 7000 by default.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
};

use web::{Request, Response};

/// The longest greeting that is read, in bytes.
const MAX_GREETING: u64 = 1024;

web::serve!(relay);

#[expect(clippy::needless_pass_by_value, reason = "what `serve!` calls")]
fn relay(request: Request) -> Response {
    let guest = match request.path.trim_matches('/') {
        "" => "stranger",
        guest => guest,
    };
    match port().and_then(|port| ask(port, guest)) {
        Ok(greeting) => Response::text(200, format!("{}: {greeting}\n", web::hostname())),
        Err(error) => Response::text(502, format!("{}: no greeter: {error}\n", web::hostname())),
    }
}

fn port() -> io::Result<u16> {
    match std::env::var("GREETER_PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| io::Error::other(format!("GREETER_PORT is no port: {port:?}"))),
        Err(_) => Ok(7000),
    }
}

/// Sends one line, reads one line.
fn ask(port: u16, guest: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(format!("{guest}\n").as_bytes())?;
    let mut greeting = String::new();
    BufReader::new(stream.take(MAX_GREETING)).read_line(&mut greeting)?;
    if greeting.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(greeting.trim_end().to_owned())
}
