//! Requests: an array of byte strings, or a line of words as a person types it.

use crate::{CRLF, parse_integer};

/// A command's name and arguments, as they were sent. Never empty.
pub type Request = Vec<Vec<u8>>;

/// What a request may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Elements of a request, the command's name included.
    pub elements: usize,
    /// Bytes of one element.
    pub element: usize,
    /// Bytes of all elements together.
    pub request: usize,
    /// Bytes of a line: of lengths, and of a request typed as words.
    pub line: usize,
}

impl Default for Limits {
    /// 1024 elements of at most 1 MiB, together at most 4 MiB; lines of 16 KiB.
    fn default() -> Self {
        Self {
            elements: 1024,
            element: 1 << 20,
            request: 4 << 20,
            line: 16 << 10,
        }
    }
}

/// What is wrong with a request. The connection cannot go on: where the next request starts is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// A line is longer than [`Limits::line`].
    LineTooLong,
    /// The number of elements is no number, or more than [`Limits::elements`].
    ElementCount,
    /// An element does not start with `$` but with this byte.
    ElementStart(u8),
    /// An element's length is no number, or more than [`Limits::element`] or what is left of [`Limits::request`].
    ElementLength,
    /// An element is not followed by CR LF.
    ElementEnd,
}

impl std::fmt::Display for ProtocolError {
    /// The texts that Redis uses, so that clients which know them find them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::LineTooLong => f.write_str("too big inline request"),
            Self::ElementCount => f.write_str("invalid multibulk length"),
            Self::ElementStart(byte) => write!(f, "expected '$', got '{}'", byte.escape_ascii()),
            Self::ElementLength => f.write_str("invalid bulk length"),
            Self::ElementEnd => f.write_str("expected CR LF after a bulk string"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Finds requests in a stream of bytes.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    done: usize,
    /// How much of the buffer beyond `done` is known to hold no end of line.
    searched: usize,
    state: State,
}

/// What comes next.
#[derive(Debug)]
enum State {
    /// A request.
    Start,
    /// The length of an element of a request.
    Length(Partial),
    /// The bytes of an element, this many.
    Element(Partial, usize),
}

/// A request of which some elements are still to come.
#[derive(Debug)]
struct Partial {
    elements: Request,
    missing: usize,
    bytes: usize,
}

/// What a step of decoding came to.
enum Step {
    More(State),
    Complete(Request),
    /// The state, unchanged: the bytes have not arrived.
    Starved(State),
}

impl RequestDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            done: 0,
            searched: 0,
            state: State::Start,
        }
    }

    /// Adds what has arrived. Call [`RequestDecoder::next_request`] until it gives nothing before adding more, lest the
    /// buffer grow.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next request, if all of it has arrived.
    pub fn next_request(&mut self) -> Result<Option<Request>, ProtocolError> {
        loop {
            let step = match std::mem::replace(&mut self.state, State::Start) {
                State::Start => self.start()?,
                State::Length(partial) => self.length(partial)?,
                State::Element(partial, length) => self.element(partial, length)?,
            };
            match step {
                Step::More(state) => self.state = state,
                Step::Complete(request) => return Ok(Some(request)),
                Step::Starved(state) => {
                    self.state = state;
                    return Ok(None);
                }
            }
        }
    }

    fn start(&mut self) -> Result<Step, ProtocolError> {
        let Some(line) = self.line()? else {
            return Ok(Step::Starved(State::Start));
        };
        let Some(count) = line.strip_prefix(b"*") else {
            let words: Request = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .map(<[u8]>::to_vec)
                .collect();
            if words.len() > self.limits.elements {
                return Err(ProtocolError::ElementCount);
            }
            return Ok(if words.is_empty() {
                Step::More(State::Start)
            } else {
                Step::Complete(words)
            });
        };
        let count = parse_integer(count).ok_or(ProtocolError::ElementCount)?;
        // Nothing at all, which Redis passes over too.
        let Some(missing) = usize::try_from(count).ok().filter(|count| *count > 0) else {
            return Ok(Step::More(State::Start));
        };
        if missing > self.limits.elements {
            return Err(ProtocolError::ElementCount);
        }
        Ok(Step::More(State::Length(Partial {
            elements: Vec::new(),
            missing,
            bytes: 0,
        })))
    }

    fn length(&mut self, partial: Partial) -> Result<Step, ProtocolError> {
        let Some(line) = self.line()? else {
            return Ok(Step::Starved(State::Length(partial)));
        };
        let Some(length) = line.strip_prefix(b"$") else {
            return Err(ProtocolError::ElementStart(
                line.first().copied().unwrap_or(b'\r'),
            ));
        };
        let room = self.limits.element.min(self.limits.request - partial.bytes);
        let length = parse_integer(length)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= room)
            .ok_or(ProtocolError::ElementLength)?;
        Ok(Step::More(State::Element(partial, length)))
    }

    fn element(&mut self, mut partial: Partial, length: usize) -> Result<Step, ProtocolError> {
        let rest = &self.buffer[self.done..];
        if rest.len() < length + CRLF.len() {
            return Ok(Step::Starved(State::Element(partial, length)));
        }
        if !rest[length..].starts_with(CRLF) {
            return Err(ProtocolError::ElementEnd);
        }
        partial.elements.push(rest[..length].to_vec());
        partial.bytes += length;
        partial.missing -= 1;
        self.done += length + CRLF.len();
        Ok(if partial.missing == 0 {
            Step::Complete(partial.elements)
        } else {
            Step::More(State::Length(partial))
        })
    }

    /// The next line without its end, if all of it has arrived. A lone LF ends a line too, for people with `nc`.
    fn line(&mut self) -> Result<Option<Vec<u8>>, ProtocolError> {
        let rest = &self.buffer[self.done..];
        let end = rest[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|end| self.searched + end);
        if end.unwrap_or(rest.len()) > self.limits.line {
            return Err(ProtocolError::LineTooLong);
        }
        let Some(end) = end else {
            self.searched = rest.len();
            return Ok(None);
        };
        let line = rest[..end]
            .strip_suffix(b"\r")
            .unwrap_or(&rest[..end])
            .to_vec();
        self.done += end + 1;
        self.searched = 0;
        Ok(Some(line))
    }
}

/// A request as bytes: the command's name and its arguments.
pub fn encode_request(elements: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", elements.len()).into_bytes();
    for element in elements {
        out.extend_from_slice(format!("${}\r\n", element.len()).as_bytes());
        out.extend_from_slice(element);
        out.extend_from_slice(CRLF);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `size` and collects requests until the end or an error.
    fn decode(bytes: &[u8], size: usize, limits: Limits) -> (Vec<Request>, Option<ProtocolError>) {
        let mut decoder = RequestDecoder::new(limits);
        let mut requests = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.feed(piece);
            loop {
                match decoder.next_request() {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn request(words: &[&str]) -> Request {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn pipelined_requests_come_out_alike_whatever_the_pieces() {
        let bytes = b"*1\r\n$4\r\nPING\r\nset  a b\r\n\r\n*0\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\nping\n";
        let expected = [
            request(&["PING"]),
            request(&["set", "a", "b"]),
            request(&["SET", "", "\r\n\r\n"]),
            request(&["ping"]),
        ];
        for size in 1..=bytes.len() {
            assert_eq!(
                decode(bytes, size, Limits::default()),
                (expected.to_vec(), None),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn what_a_client_encodes_is_what_a_server_decodes() {
        let elements: [&[u8]; 3] = [b"SET", b"k\r\n*$", &[0, 255, b'\n']];
        let (requests, error) = decode(&encode_request(&elements), 1, Limits::default());
        assert_eq!(requests, [elements.map(<[u8]>::to_vec).to_vec()]);
        assert_eq!(error, None);
    }

    #[test]
    fn what_is_malformed_is_an_error_and_not_a_guess() {
        for (bytes, expected) in [
            (&b"*x\r\n"[..], ProtocolError::ElementCount),
            (b"*+1\r\n", ProtocolError::ElementCount),
            (b"*\r\n", ProtocolError::ElementCount),
            (b"*99999999999999999999\r\n", ProtocolError::ElementCount),
            (b"*1\r\n:4\r\n", ProtocolError::ElementStart(b':')),
            (b"*1\r\n\r\n", ProtocolError::ElementStart(b'\r')),
            (b"*1\r\n$-1\r\n", ProtocolError::ElementLength),
            (b"*1\r\n$1 \r\n", ProtocolError::ElementLength),
            (b"*1\r\n$2\r\nabcd\r\n", ProtocolError::ElementEnd),
        ] {
            assert_eq!(
                decode(bytes, 3, Limits::default()),
                (vec![], Some(expected)),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn nothing_is_larger_than_its_limit() {
        let limits = Limits {
            elements: 2,
            element: 4,
            request: 6,
            line: 16,
        };
        let error = |bytes: &[u8]| decode(bytes, 1, limits).1;
        assert_eq!(error(b"*2\r\n$4\r\nabcd\r\n$2\r\nab\r\n"), None);
        assert_eq!(error(b"*3\r\n"), Some(ProtocolError::ElementCount));
        assert_eq!(error(b"a b c\r\n"), Some(ProtocolError::ElementCount));
        assert_eq!(error(b"*1\r\n$5\r\n"), Some(ProtocolError::ElementLength));
        assert_eq!(
            error(b"*2\r\n$4\r\nabcd\r\n$3\r\n"),
            Some(ProtocolError::ElementLength)
        );
        assert_eq!(error(b"0123456789abcdef"), None);
        assert_eq!(
            error(b"0123456789abcdefg"),
            Some(ProtocolError::LineTooLong)
        );
    }

    #[test]
    fn a_starved_decoder_keeps_only_what_it_still_needs() {
        let mut decoder = RequestDecoder::new(Limits::default());
        for _ in 0..1000 {
            decoder.feed(b"*1\r\n$4\r\nPING\r\n");
            assert!(
                decoder
                    .next_request()
                    .is_ok_and(|request| request.is_some())
            );
            assert!(
                decoder
                    .next_request()
                    .is_ok_and(|request| request.is_none())
            );
        }
        assert!(decoder.buffer.len() <= 14, "{}", decoder.buffer.len());
    }
}
