//! Measures the way from one pod to another, by TCP: how long a message takes there and back, and how much goes through.
//! The same source makes a module and a Linux program, so that nothing but the way differs.
//!
//! `netbench serve PORT` answers one connection after another; `netbench measure HOST PORT` prints what it finds, one
//! line: `round trip MICROSECONDS us, throughput MEBIBYTES MiB/s`.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

/// How long each of the two is measured.
const TIME: Duration = Duration::from_secs(3);
/// A message that goes there and back.
const MESSAGE: usize = 64;
/// What is written at once when it is about throughput.
const CHUNK: usize = 64 * 1024;
const CHUNKS_OF_A_MEBIBYTE: f64 = 16.0;

/// What a connection begins with: what it is for.
const ECHO: u8 = b'e';
const COUNT: u8 = b'c';

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["serve", port] => serve(port),
        ["measure", host, port] => measure(host, port),
        _ => Err("usage: netbench serve PORT | netbench measure HOST PORT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netbench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    for stream in listener.incoming() {
        // One that breaks off concerns nobody else.
        if let Err(error) = stream.and_then(answer) {
            eprintln!("netbench: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    hurry(&stream);
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        if kind == [ECHO] {
            stream.write_all(&buffer[..length])?;
        }
        count += length as u64;
    }
    stream.write_all(&count.to_be_bytes())
}

fn measure(host: &str, port: &str) -> Result<(), Box<dyn Error>> {
    let port = port.parse()?;
    let round_trip = round_trip(host, port)?;
    let throughput = throughput(host, port)?;
    println!("round trip {round_trip:.1} us, throughput {throughput:.0} MiB/s");
    Ok(())
}

/// In microseconds, the mean.
fn round_trip(host: &str, port: u16) -> io::Result<f64> {
    let mut stream = connect(host, port, ECHO)?;
    let mut message = [7; MESSAGE];
    let (begin, mut count) = (Instant::now(), 0_u32);
    while begin.elapsed() < TIME {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        count += 1;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// In mebibytes in a second, until the other side says that it has them all.
fn throughput(host: &str, port: u16) -> io::Result<f64> {
    let mut stream = connect(host, port, COUNT)?;
    let chunk = vec![7; CHUNK];
    let (begin, mut count) = (Instant::now(), 0_u32);
    while begin.elapsed() < TIME {
        stream.write_all(&chunk)?;
        count += 1;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut taken = [0; 8];
    stream.read_exact(&mut taken)?;
    let seconds = begin.elapsed().as_secs_f64();
    let sent = u64::from(count) * CHUNK as u64;
    if u64::from_be_bytes(taken) != sent {
        return Err(io::Error::other("not all has arrived"));
    }
    Ok(f64::from(count) / CHUNKS_OF_A_MEBIBYTE / seconds)
}

fn connect(host: &str, port: u16, kind: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect((host, port))?;
    hurry(&stream);
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// Where there is no such option, nothing waits to be sent in company either.
fn hurry(stream: &TcpStream) {
    let _unsupported = stream.set_nodelay(true);
}
