//! The Redis protocol (RESP2) for both ends of a connection, without I/O: bytes in, values out.
//!
//! A server reads requests with a [`RequestDecoder`] and writes [`Reply`]s by [`Reply::encode`]; a client writes
//! requests by [`encode_request`] and reads replies with [`Reply::decode`]. Specified at
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
//!
//! What comes from the other side is hostile until proven otherwise: every length has a bound before anything of
//! that length is kept, and nothing is read twice, however small the pieces are in which it arrives.

mod reply;
mod request;

pub use reply::{Reply, ReplyError};
pub use request::{Limits, ProtocolError, Request, RequestDecoder, encode_request};

/// What ends each line.
const CRLF: &[u8] = b"\r\n";

/// A decimal integer as the protocol writes lengths and numbers: an optional minus and digits, nothing else.
fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
