//! Commands about the network: names, connections, and what is at a URL.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};

use crate::Outcome;

/// The longest head of an answer that is looked at.
const LONGEST_HEAD: usize = 64 << 10;

/// `nslookup NAME`: the addresses of a name.
pub(crate) fn nslookup(arguments: &[String]) -> Outcome {
    let [name] = arguments else {
        return Err("usage: nslookup NAME".into());
    };
    let addresses = (name.as_str(), 0).to_socket_addrs();
    let addresses = addresses.map_err(|error| format!("{name}: {error}"))?;
    println!("Name:    {name}");
    for address in addresses {
        println!("Address: {}", address.ip());
    }
    Ok(0)
}

/// `nc [-z] HOST PORT`: standard input to a port, what comes back to standard output; with `-z`, only whether somebody listens.
/// `nc -l PORT`: the other end, for one connection.
pub(crate) fn nc(arguments: &[String]) -> Outcome {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["-z", host, port] => connect(host, port).map(|_| 0),
        ["-l", port] => {
            let port = number(port)?;
            let listener = TcpListener::bind(("0.0.0.0", port));
            let accepted = listener.and_then(|listener| listener.accept());
            let (stream, _) = accepted.map_err(|error| format!("port {port}: {error}"))?;
            talk(stream)
        }
        [host, port] => talk(connect(host, port)?),
        _ => Err("usage: nc [-z] HOST PORT | nc -l PORT".into()),
    }
}

fn number(port: &str) -> Result<u16, String> {
    port.parse().map_err(|_| format!("{port}: not a port"))
}

fn connect(host: &str, port: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, number(port)?));
    stream.map_err(|error| format!("{host}:{port}: {error}"))
}

/// First all that is to be sent, then all that comes: there is one thread.
fn talk(mut stream: TcpStream) -> Outcome {
    let talked = || -> io::Result<()> {
        io::copy(&mut io::stdin(), &mut stream)?;
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::stdout()).map(drop)
    };
    let mut talked = talked;
    talked().map(|()| 0).map_err(|error| error.to_string())
}

/// `wget [-q] [-S] [-O -] URL`: what is at a URL, to standard output; `-S` shows the answer's head, too.
pub(crate) fn wget(arguments: &[String]) -> Outcome {
    let mut show_head = false;
    let mut url = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-q" | "-O-" | "-qO-" => {}
            "-S" => show_head = true,
            "-O" | "-qO" => match rest.next().map(String::as_str) {
                Some("-") => {}
                _ => return Err("-O: only to standard output (-)".into()),
            },
            other => url = Some(other),
        }
    }
    let url = url.ok_or("usage: wget [-S] URL")?;
    let (host, port, path) = parts(url)?;
    let mut stream = connect(host, port)?;
    let answer = fetch(&mut stream, host, path).map_err(|error| format!("{url}: {error}"))?;
    let (head, body) = answer;
    if show_head {
        eprint!("{head}");
    }
    let ok = head
        .split(' ')
        .nth(1)
        .is_some_and(|status| status.starts_with('2'));
    if !ok {
        return Err(format!(
            "{url}: {}",
            head.lines().next().unwrap_or_default()
        ));
    }
    let mut out = io::stdout();
    let copied = out
        .write_all(&body)
        .and_then(|()| io::copy(&mut stream, &mut out));
    copied.map(|_| 0).map_err(|error| error.to_string())
}

/// Host, port and path of a URL.
fn parts(url: &str) -> Result<(&str, &str, &str), String> {
    if url.starts_with("https://") {
        return Err("https is not offered; use http".into());
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    Ok((host, port, path))
}

/// Asks in HTTP/1.0, so that the body ends with the connection; gives the head, and what has come of the body with it.
fn fetch(stream: &mut TcpStream, host: &str, path: &str) -> io::Result<(String, Vec<u8>)> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: toolbox\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece)?;
        got.extend_from_slice(&piece[..length]);
        if let Some(end) = got.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = got.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&got).into_owned(), body));
        }
        if length == 0 || got.len() > LONGEST_HEAD {
            return Err(io::Error::other("no answer in HTTP"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_parts() {
        assert_eq!(
            parts("http://web:8080/a?b").unwrap(),
            ("web", "8080", "/a?b")
        );
        assert_eq!(parts("web").unwrap(), ("web", "80", "/"));
        assert!(parts("https://web/").is_err());
    }
}
