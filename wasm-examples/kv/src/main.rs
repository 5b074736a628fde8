//! A small key-value server that speaks the Redis protocol, as a WASI 0.2 command.
//!
//! One thread serves all clients: it waits, in a single call to the host, until a new client or any of the present
//! ones can be attended to. std's sockets can't be waited for together, so this uses `wasi:sockets` itself.
//!
//! `KV_LISTEN` says where to listen, `0.0.0.0:6379` by default.

use std::{env, net::SocketAddrV4, process::ExitCode};

use kv::{Session, Store};
use resp::Reply;
use wasip2::{
    io::{
        poll::{Pollable, poll},
        streams::{InputStream, OutputStream, StreamError},
    },
    sockets::{
        instance_network::instance_network,
        network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress},
        tcp::TcpSocket,
        tcp_create_socket::create_tcp_socket,
    },
};

/// More clients than this are turned away with an error.
const MAX_CLIENTS: usize = 256;
/// How much is read from a client before the next one has its turn.
const READ: u64 = 64 * 1024;
/// How much is written at once.
const WRITE: usize = 64 * 1024;

fn main() -> ExitCode {
    let address = env::var("KV_LISTEN").unwrap_or_else(|_| "0.0.0.0:6379".to_owned());
    let Ok(address) = address.parse::<SocketAddrV4>() else {
        eprintln!("kv: KV_LISTEN is no IPv4 address and port: {address:?}");
        return ExitCode::FAILURE;
    };
    match listen(address) {
        Ok(listener) => {
            println!("kv: listening on {address}");
            serve(&listener)
        }
        Err(error) => {
            eprintln!("kv: cannot listen on {address}: {}", error.name());
            ExitCode::FAILURE
        }
    }
}

/// A listening socket and what waits for its next client, which must go before it.
struct Listener {
    ready: Pollable,
    socket: TcpSocket,
}

fn listen(address: SocketAddrV4) -> Result<Listener, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    let ready = socket.subscribe();
    let [a, b, c, d] = address.ip().octets();
    let local = IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    });
    socket.start_bind(&instance_network(), local)?;
    finish(&ready, || socket.finish_bind())?;
    socket.start_listen()?;
    finish(&ready, || socket.finish_listen())?;
    Ok(Listener { ready, socket })
}

/// Waits for the second half of an operation.
fn finish(ready: &Pollable, attempt: impl Fn() -> Result<(), ErrorCode>) -> Result<(), ErrorCode> {
    loop {
        match attempt() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            done => return done,
        }
    }
}

/// A connected client. Fields are dropped from first to last: what was made from another goes before it.
struct Client {
    readable: Pollable,
    writable: Pollable,
    input: InputStream,
    output: OutputStream,
    session: Session,
    _socket: TcpSocket,
}

/// Whether a client is still there.
#[derive(PartialEq, Eq)]
enum Presence {
    Here,
    Gone,
}

impl Client {
    fn new((socket, input, output): (TcpSocket, InputStream, OutputStream)) -> Self {
        let (readable, writable) = (input.subscribe(), output.subscribe());
        Self {
            readable,
            writable,
            input,
            output,
            session: Session::default(),
            _socket: socket,
        }
    }

    /// What must happen before anything can be done for this client.
    fn awaited(&self) -> &Pollable {
        if self.session.outgoing().is_empty() {
            &self.readable
        } else {
            &self.writable
        }
    }

    /// Does all that can be done without waiting.
    fn attend(&mut self, store: &mut Store) -> Presence {
        if self.session.outgoing().is_empty() && self.session.is_open() {
            match self.input.read(READ) {
                Ok(bytes) => self.session.receive(&bytes, store),
                Err(_) => return Presence::Gone,
            }
        }
        match self.send(store) {
            Ok(()) if !self.session.is_over() => Presence::Here,
            Ok(()) | Err(_) => Presence::Gone,
        }
    }

    /// Writes what the socket takes, and answers what becomes answerable by that.
    fn send(&mut self, store: &mut Store) -> Result<(), StreamError> {
        while !self.session.outgoing().is_empty() {
            let room = usize::try_from(self.output.check_write()?).unwrap_or(usize::MAX);
            let outgoing = self.session.outgoing();
            let length = outgoing.len().min(room).min(WRITE);
            if length == 0 {
                return Ok(());
            }
            self.output.write(&outgoing[..length])?;
            self.session.sent(length);
            if self.session.outgoing().is_empty() {
                self.output.flush()?;
            }
            self.session.proceed(store);
        }
        Ok(())
    }
}

/// Serves clients for as long as the listener works.
fn serve(listener: &Listener) -> ExitCode {
    let mut store = Store::default();
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let awaited: Vec<_> = clients
            .iter()
            .map(Client::awaited)
            .chain([&listener.ready])
            .collect();
        let mut is_ready = vec![false; awaited.len()];
        for index in poll(&awaited) {
            is_ready[index as usize] = true;
        }
        let mut is_ready = is_ready.into_iter();
        clients.retain_mut(|client| {
            is_ready.next() != Some(true) || client.attend(&mut store) == Presence::Here
        });
        // What is left is the listener. One new client in each round: a crowd at the door does not starve those inside.
        if is_ready.next() == Some(true)
            && let Err(error) = accept(listener, &mut clients, &mut store)
        {
            eprintln!("kv: cannot accept clients any more: {}", error.name());
            return ExitCode::FAILURE;
        }
    }
}

/// Lets one client in, or turns it away if there are too many.
fn accept(
    listener: &Listener,
    clients: &mut Vec<Client>,
    store: &mut Store,
) -> Result<(), ErrorCode> {
    match listener.socket.accept() {
        Ok(connection) => {
            let mut client = Client::new(connection);
            if clients.len() < MAX_CLIENTS {
                clients.push(client);
            } else {
                client
                    .session
                    .end(&Reply::error("ERR max number of clients reached"));
                client.attend(store);
            }
            Ok(())
        }
        // It did not stay; the next one may.
        Err(ErrorCode::WouldBlock | ErrorCode::ConnectionAborted | ErrorCode::ConnectionReset) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
