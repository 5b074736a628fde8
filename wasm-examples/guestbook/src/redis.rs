//! A client of a Redis server, over std's TCP.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use resp::{Reply, ReplyError, encode_request};

/// The largest answer that is read, in bytes.
const MAX_REPLY: usize = 1 << 20;

/// Why the server could not be asked.
#[derive(Debug)]
pub(crate) enum Error {
    /// The connection could not be made, or broke off.
    Connection(io::Error),
    /// The answer is not Redis' protocol, or too large.
    Protocol(ReplyError),
    /// The server refused.
    Refused(String),
    /// The server answered with something else than the command's own kind of answer.
    Unexpected,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::Refused(text) => f.write_str(text),
            Self::Unexpected => f.write_str("an answer to something else"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

/// A connection to a server.
pub(crate) struct Redis {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Redis {
    /// Connects to `NAME:PORT`.
    pub(crate) fn connect(address: &str) -> Result<Self, Error> {
        Ok(Self {
            stream: TcpStream::connect(address)?,
            received: Vec::new(),
        })
    }

    /// Adds one to a number and gives it.
    pub(crate) fn increment(&mut self, key: &str) -> Result<i64, Error> {
        match self.ask(&["INCR", key])? {
            Reply::Integer(number) => Ok(number),
            _ => Err(Error::Unexpected),
        }
    }

    /// Puts an element in front of a list.
    pub(crate) fn push(&mut self, key: &str, element: &str) -> Result<(), Error> {
        match self.ask(&["LPUSH", key, element])? {
            Reply::Integer(_) => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// The first elements of a list, `count` at most.
    pub(crate) fn newest(&mut self, key: &str, count: usize) -> Result<Vec<String>, Error> {
        let last = (count.max(1) - 1).to_string();
        let Reply::Array(elements) = self.ask(&["LRANGE", key, "0", &last])? else {
            return Err(Error::Unexpected);
        };
        elements
            .into_iter()
            .map(|element| match element {
                Reply::Bulk(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                _ => Err(Error::Unexpected),
            })
            .collect()
    }

    fn ask(&mut self, words: &[&str]) -> Result<Reply, Error> {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        self.stream.write_all(&encode_request(&words))?;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if let Some((reply, length)) = Reply::decode(&self.received).map_err(Error::Protocol)? {
                self.received.drain(..length);
                return match reply {
                    Reply::Error(text) => Err(Error::Refused(text.into_owned())),
                    reply => Ok(reply),
                };
            }
            if self.received.len() > MAX_REPLY {
                return Err(Error::Protocol(ReplyError::TooLarge));
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                length => self.received.extend_from_slice(&buffer[..length]),
            }
        }
    }
}
