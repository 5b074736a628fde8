//! What sockets must do, whichever version of WASI they are of: [`run`] tries it all on a [`Net`]. The program of this package
//! does so by WASI 0.2, `async-socket-cases` by 0.3.

#![allow(async_fn_in_trait, reason = "the guests have one thread")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what is expected reads better as it is"
)]

use std::net::SocketAddr;

mod tcp;
mod udp;

/// What a call gives: errors by the names that they have in WASI.
pub type Answer<T> = Result<T, String>;

/// An option that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as in WASI")]
pub enum Setting {
    KeepAliveIdleTime,
    KeepAliveInterval,
    KeepAliveCount,
    HopLimit,
    ReceiveBufferSize,
    SendBufferSize,
}

/// What a socket has, of either kind.
pub trait Socket: Sized {
    /// A new one, of IPv6 or not.
    fn create(is_v6: bool) -> Answer<Self>;
    /// Binds it.
    async fn bind(&self, to: SocketAddr) -> Answer<()>;
    /// Where it is bound.
    fn local(&self) -> Answer<SocketAddr>;
    /// Whom it is connected to.
    fn remote(&self) -> Answer<SocketAddr>;
    /// Whether it is of IPv6.
    fn is_v6(&self) -> bool;
    /// An option; not every kind has all.
    fn get(&self, what: Setting) -> Answer<u64>;
    /// Sets an option.
    fn set(&self, what: Setting, value: u64) -> Answer<()>;
}

/// A TCP socket.
pub trait Tcp: Socket {
    /// Connects it.
    async fn connect(&mut self, to: SocketAddr) -> Answer<()>;
    /// Has it listen.
    async fn listen(&mut self) -> Answer<()>;
    /// Takes a connection, waiting for one.
    async fn accept(&mut self) -> Answer<Self>;
    /// Whether it listens.
    fn is_listening(&self) -> bool;
    /// Hints how many connections may wait.
    fn set_backlog(&self, size: u64) -> Answer<()>;
    /// Sends all of that.
    async fn send(&mut self, data: Vec<u8>) -> Answer<()>;
    /// Sends no more.
    async fn finish(&mut self) -> Answer<()>;
    /// Receives something; nothing at the end.
    async fn receive(&mut self) -> Answer<Vec<u8>>;
}

/// A UDP socket.
pub trait Udp: Socket {
    /// Connects it, or takes that back.
    fn connect(&mut self, to: Option<SocketAddr>) -> Answer<()>;
    /// Sends a datagram.
    async fn send(&mut self, data: Vec<u8>, to: Option<SocketAddr>) -> Answer<()>;
    /// Receives one, waiting for it.
    async fn receive(&mut self) -> Answer<(Vec<u8>, SocketAddr)>;
}

/// The sockets of a version of WASI.
pub trait Net {
    /// Its TCP sockets.
    type Tcp: Tcp;
    /// Its UDP sockets.
    type Udp: Udp;
    /// Whether it binds sockets by itself when they listen, send or receive.
    const BINDS: bool;
}

/// Tries everything. Gives a line for each case: its name and `ok`, or what went wrong.
pub async fn run<N: Net>() -> Vec<String> {
    let mut lines = Vec::new();
    tcp::run::<N>(&mut lines).await;
    udp::run::<N>(&mut lines).await;
    lines
}

fn tell(lines: &mut Vec<String>, name: &str, result: Answer<()>) {
    match result {
        Ok(()) => lines.push(format!("{name}: ok")),
        Err(error) => lines.push(format!("{name}: {error}")),
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Answer<()> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what} is {is:?}, not {should:?}"))
    }
}

/// It must fail with that error.
fn fails<T>(what: &str, result: Answer<T>, code: &str) -> Answer<()> {
    match result {
        Ok(_) => Err(format!("{what} succeeds")),
        Err(error) => expect(what, error.as_str(), code),
    }
}

/// Every option has a default, takes what it is set to, and nothing below one.
fn settings<S: Socket>(socket: &S, all: &[(Setting, u64)]) -> Answer<()> {
    for (setting, value) in all {
        let name = format!("{setting:?}");
        if socket.get(*setting)? == 0 {
            return Err(format!("{name} is 0"));
        }
        socket.set(*setting, *value)?;
        expect(&name, socket.get(*setting)?, *value)?;
        fails(&name, socket.set(*setting, 0), "InvalidArgument")?;
        expect(&name, socket.get(*setting)?, *value)?;
    }
    Ok(())
}
