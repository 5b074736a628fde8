//! Replies: what a server answers.

use std::borrow::Cow;

use crate::{CRLF, parse_integer};

/// The longest line of a reply that a client reads: a status, an error, a length.
const MAX_LINE: usize = 4096;
/// How deep arrays may lie in arrays.
const MAX_DEPTH: usize = 4;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status, such as `OK`: one line.
    Simple(Cow<'static, str>),
    /// An error: one line whose first word is its kind, such as `ERR`.
    Error(Cow<'static, str>),
    /// A number.
    Integer(i64),
    /// Bytes of any kind.
    Bulk(Vec<u8>),
    /// Nothing: the key is not there.
    Nil,
    /// Several.
    Array(Vec<Reply>),
}

/// Why a reply cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyError {
    /// It does not follow the protocol.
    Malformed,
    /// It is larger than the reader allows.
    TooLarge,
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the reply does not follow the Redis protocol",
            Self::TooLarge => "the reply is too large",
        })
    }
}

impl std::error::Error for ReplyError {}

impl Reply {
    /// The status `OK`.
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    /// An error. Line breaks, which the protocol has no room for, become blanks.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self::Error(if text.contains(['\r', '\n']) {
            text.replace(['\r', '\n'], " ").into()
        } else {
            text
        })
    }

    /// Appends the reply as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => line(out, b'+', text),
            Self::Error(text) => line(out, b'-', text),
            Self::Integer(number) => line(out, b':', &number.to_string()),
            Self::Bulk(bytes) => {
                line(out, b'$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(CRLF);
            }
            Self::Nil => line(out, b'$', "-1"),
            Self::Array(replies) => {
                line(out, b'*', &replies.len().to_string());
                for reply in replies {
                    reply.encode(out);
                }
            }
        }
    }

    /// The reply at the start of `bytes` and its length, or nothing if more must arrive first. A reader that has kept
    /// more than it wants for one reply gives up; how much that is, is for it to say.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ReplyError> {
        let mut reader = Reader { bytes, at: 0 };
        match reader.reply(0) {
            Ok(reply) => Ok(Some((reply, reader.at))),
            Err(Stop::Starved) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
        }
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(CRLF);
}

enum Stop {
    Starved,
    Error(ReplyError),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Reply, Stop> {
        let line = self.line()?;
        let (kind, text) = line
            .split_first()
            .ok_or(Stop::Error(ReplyError::Malformed))?;
        let owned = || Cow::Owned(String::from_utf8_lossy(text).into_owned());
        match kind {
            b'+' => Ok(Reply::Simple(owned())),
            b'-' => Ok(Reply::Error(owned())),
            b':' => parse_integer(text)
                .map(Reply::Integer)
                .ok_or(Stop::Error(ReplyError::Malformed)),
            b'$' => match length(text)? {
                Some(length) => self.bulk(length),
                None => Ok(Reply::Nil),
            },
            b'*' if depth == MAX_DEPTH => Err(Stop::Error(ReplyError::TooLarge)),
            b'*' => match length(text)? {
                // Collected one by one: a length that the other side only claims reserves nothing.
                Some(length) => (0..length)
                    .map(|_| self.reply(depth + 1))
                    .collect::<Result<_, _>>()
                    .map(Reply::Array),
                None => Ok(Reply::Nil),
            },
            _ => Err(Stop::Error(ReplyError::Malformed)),
        }
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        match find_crlf(&rest[..rest.len().min(MAX_LINE)]) {
            Some(end) => {
                self.at += end + CRLF.len();
                Ok(&rest[..end])
            }
            None if rest.len() >= MAX_LINE => Err(Stop::Error(ReplyError::TooLarge)),
            None => Err(Stop::Starved),
        }
    }

    fn bulk(&mut self, length: usize) -> Result<Reply, Stop> {
        let rest = &self.bytes[self.at..];
        let end = length
            .checked_add(CRLF.len())
            .ok_or(Stop::Error(ReplyError::TooLarge))?;
        if rest.len() < end {
            return Err(Stop::Starved);
        }
        if !rest[length..].starts_with(CRLF) {
            return Err(Stop::Error(ReplyError::Malformed));
        }
        self.at += end;
        Ok(Reply::Bulk(rest[..length].to_vec()))
    }
}

/// The position of the first CR LF in `bytes`.
fn find_crlf(bytes: &[u8]) -> Option<usize> {
    bytes.windows(CRLF.len()).position(|pair| pair == CRLF)
}

/// A length; -1 stands for nothing.
fn length(text: &[u8]) -> Result<Option<usize>, Stop> {
    match parse_integer(text) {
        Some(-1) => Ok(None),
        Some(number) => usize::try_from(number)
            .map(Some)
            .map_err(|_| Stop::Error(ReplyError::Malformed)),
        None => Err(Stop::Error(ReplyError::Malformed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reply {
        Reply::Array(vec![
            Reply::OK,
            Reply::error("ERR no\r\nsuch luck"),
            Reply::Integer(i64::MIN),
            Reply::Bulk(b"\r\n$-1\r\n\xff".to_vec()),
            Reply::Bulk(Vec::new()),
            Reply::Nil,
            Reply::Array(vec![Reply::Nil]),
        ])
    }

    #[test]
    fn what_is_encoded_is_decoded_and_the_rest_left_alone() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"+next");
        assert_eq!(Reply::decode(&bytes), Ok(Some((sample(), length))));
    }

    #[test]
    fn a_part_of_a_reply_is_nothing_yet() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for length in 0..bytes.len() {
            assert_eq!(Reply::decode(&bytes[..length]), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let mut bytes = Vec::new();
        Reply::error("ERR a\r\n+OK").encode(&mut bytes);
        assert_eq!(bytes, b"-ERR a  +OK\r\n");
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            &b"?\r\n"[..],
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$\r\n",
            b"$1\r\nabc",
            b"*x\r\n",
        ] {
            assert_eq!(
                Reply::decode(bytes),
                Err(ReplyError::Malformed),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(
            Reply::decode(&b"*1\r\n".repeat(10_000)),
            Err(ReplyError::TooLarge)
        );
        assert_eq!(
            Reply::decode(&[b'+'; MAX_LINE + 1]),
            Err(ReplyError::TooLarge)
        );
        // Claimed lengths cost nothing.
        assert_eq!(Reply::decode(b"*9223372036854775807\r\n:1\r\n"), Ok(None));
        assert_eq!(Reply::decode(b"$9223372036854775807\r\n"), Ok(None));
    }
}
