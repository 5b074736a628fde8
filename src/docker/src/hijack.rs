//! Connections to an engine that stop being HTTP: the streams of a container or of a command in one.
//!
//! The client library decodes these as well, but takes a terminal's output for framed if it begins with a certain byte,
//! and then believes whatever length that names. Here whoever asks knows whether there is a terminal.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::engine::{Address, Engine};

/// The longest head of an answer.
const LONGEST_HEAD: usize = 16 << 10;
/// The longest text of a refusal that is read.
const LONGEST_REFUSAL: u64 = 4 << 10;
/// How long the engine may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Either kind of socket.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The writing end: what a program reads. Shutting it down is the end of that input.
pub struct Input(Pin<Box<dyn AsyncWrite + Send>>);

/// The reading end: what the program writes, as the engine sends it.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Posts to the engine and takes over the connection. What the engine refuses is an error with its words.
pub(crate) async fn open(
    engine: &Engine,
    path: &str,
    body: Option<&serde_json::Value>,
) -> io::Result<(Reader, Input)> {
    let opened = async {
        let mut io: Box<dyn Io> = match &engine.address {
            Address::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(host) => Box::new(TcpStream::connect(host).await?),
        };
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = format!(
            "POST {}{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            engine.prefix(),
            body.len()
        );
        io.write_all(request.as_bytes()).await?;
        let (head, rest) = head(&mut io).await?;
        let status = status(&head);
        if !matches!(status, Some(101 | 200)) {
            return Err(refusal(io, rest).await);
        }
        let (read, write) = split(io);
        let read = io::Cursor::new(rest).chain(read);
        Ok((Box::new(read) as Reader, Input(Box::pin(write))))
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the Docker engine does not answer");
    timeout(PATIENCE, opened).await.map_err(late)?
}

/// Reads up to the empty line behind the head; also returns what came behind that.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|piece| piece == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((read, rest));
        }
        if read.len() >= LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut piece = [0; 1024];
        let count = io.read(&mut piece).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

/// What the engine says in place of an answer.
async fn refusal(io: Box<dyn Io>, mut text: Vec<u8>) -> io::Error {
    let reading = io.take(LONGEST_REFUSAL).read_to_end(&mut text).await;
    let json = || {
        let (first, last) = (
            text.iter().position(|byte| *byte == b'{')?,
            text.iter().rposition(|byte| *byte == b'}')?,
        );
        let value: serde_json::Value = serde_json::from_slice(text.get(first..=last)?).ok()?;
        Some(value.get("message")?.as_str()?.to_owned())
    };
    match (reading, json()) {
        (_, Some(message)) => io::Error::other(message),
        (Err(error), None) => error,
        (Ok(_), None) => io::Error::other("the Docker engine refused without a word"),
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

/// Where a piece of output is cut if nothing else cuts it.
const PIECE: usize = 16 << 10;

/// What a program writes, piece by piece.
pub(crate) struct Frames {
    reader: Reader,
    is_framed: bool,
    /// The channel of the frame at hand, and how much of it is to come.
    frame: (u8, usize),
}

impl Frames {
    /// With a terminal, all is one stream; without, the engine puts a header before each piece: the channel's number in
    /// the first byte, the length in the last four of eight.
    pub(crate) fn new(reader: Reader, has_terminal: bool) -> Self {
        Self {
            reader,
            is_framed: !has_terminal,
            frame: (1, 0),
        }
    }

    /// The next piece and the number of its channel, 1 or 2. `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        if self.is_framed {
            while self.frame.1 == 0 {
                let mut header = [0; 8];
                if !fill(&mut self.reader, &mut header).await? {
                    return Ok(None);
                }
                let [channel, _, _, _, length @ ..] = header;
                self.frame = (channel, u32::from_be_bytes(length) as usize);
            }
        }
        let most = if self.is_framed {
            self.frame.1.min(PIECE)
        } else {
            PIECE
        };
        let mut piece = vec![0; most];
        let count = self.reader.read(&mut piece).await?;
        if count == 0 {
            return Ok(None);
        }
        piece.truncate(count);
        if self.is_framed {
            self.frame.1 -= count;
        }
        Ok(Some((self.frame.0, piece)))
    }
}

/// Fills the buffer; false if the stream has ended before.
async fn fill(reader: &mut Reader, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8], has_terminal: bool) -> Frames {
        Frames::new(Box::new(io::Cursor::new(bytes.to_vec())), has_terminal)
    }

    #[tokio::test]
    async fn frames_are_taken_apart() {
        let mut framed = frames(
            b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x02er\x01\0\0",
            false,
        );
        assert_eq!(framed.next().await.unwrap(), Some((1, b"out".to_vec())));
        assert_eq!(framed.next().await.unwrap(), Some((2, b"er".to_vec())));
        assert_eq!(framed.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_frame_of_any_length_is_passed_on_in_pieces() {
        let mut bytes = b"\x01\0\0\0\xff\xff\xff\xff".to_vec();
        bytes.extend(vec![b'x'; PIECE + 1]);
        let mut framed = frames(&bytes, false);
        assert_eq!(framed.next().await.unwrap().unwrap().1.len(), PIECE);
        assert_eq!(framed.next().await.unwrap().unwrap().1.len(), 1);
        assert_eq!(framed.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_terminal_can_say_anything() {
        let mut raw = frames(b"\x01\0\0\0\xff\xff\xff\xffx", true);
        assert_eq!(
            raw.next().await.unwrap().unwrap().1,
            b"\x01\0\0\0\xff\xff\xff\xffx"
        );
    }

    #[tokio::test]
    async fn a_head_is_told_from_what_comes_behind_it() {
        let mut answer = &b"HTTP/1.1 101 UPGRADED\r\nA: b\r\n\r\nrest"[..];
        let (head, rest) = head(&mut answer).await.unwrap();
        assert_eq!((status(&head), rest.as_slice()), (Some(101), &b"rest"[..]));
        assert_eq!(status(b"garbage"), None);
        let endless = vec![b'x'; LONGEST_HEAD * 2];
        assert!(super::head(&mut endless.as_slice()).await.is_err());
    }
}
