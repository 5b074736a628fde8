//! A command's streams: those of exec, and of attach.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    Connection, Limits, Stream,
    handshake::{Accepted, Carrier, Results},
    mux::Shared,
    spdy,
    websocket::channels::{self, Form},
};

/// The channels of a WebSocket, by number.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;
/// Bytes of a terminal size that is not complete yet.
const MAX_RESIZE: usize = 1024;

/// Which streams the client asks for.
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent options, as the API has them"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Something to read.
    pub stdin: bool,
    /// Something to write.
    pub stdout: bool,
    /// Something else to write. With a terminal there is none, whatever is asked for: all goes to stdout.
    pub stderr: bool,
    /// A terminal, whose size may change.
    pub tty: bool,
}

impl Wanted {
    fn stderr(self) -> bool {
        self.stderr && !self.tty
    }
}

/// Why a session could not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The client hung up first.
    #[error("the client is gone")]
    Lost,
    /// The client did not open all the streams that it asked for in time.
    #[error("timed out waiting for client to create streams")]
    TooSlow,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With code 0.
    Success,
    /// With another code.
    Exit(i32),
    /// It could not be run, or not to its end. The text is for the user.
    Failed(String),
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// The sizes that the client's terminal takes on.
#[derive(Debug)]
pub struct Resizes {
    stream: Stream,
    pending: Vec<u8>,
}

impl Resizes {
    /// The next size; `None` when there will be no more. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            let mut sizes =
                serde_json::Deserializer::from_slice(&self.pending).into_iter::<TerminalSize>();
            match sizes.next() {
                Some(Ok(size)) => {
                    let taken = sizes.byte_offset();
                    self.pending.drain(..taken);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                _ => {}
            }
            if self.pending.len() > MAX_RESIZE {
                return None;
            }
            if !matches!(self.stream.read_buf(&mut self.pending).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }
}

/// The streams of a command, as its server sees them. Dropping it hangs up without a result: see
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct ExecSession {
    /// What the client types; ends when the client ends it, if its protocol can say so.
    pub stdin: Option<Stream>,
    /// Where output goes.
    pub stdout: Option<Stream>,
    /// Where the other output goes.
    pub stderr: Option<Stream>,
    /// The size of the terminal.
    pub resizes: Option<Resizes>,
    error: Stream,
    results: Results,
    connection: Connection,
}

impl ExecSession {
    /// Waits until the client has opened the streams that it `wanted` over `io`, the connection of which the request was
    /// `accepted`.
    pub async fn open<IO>(
        io: IO,
        accepted: &Accepted,
        wanted: Wanted,
        limits: Limits,
    ) -> Result<Self, SessionError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match accepted.carrier {
            Carrier::Channels(form) => {
                Ok(Self::over_channels(io, form, accepted.results, wanted, limits).await)
            }
            Carrier::Spdy | Carrier::Tunnel => {
                let deadline = limits.creation;
                let connection = spdy::accept(io, limits);
                let opened = Self::over_spdy(connection, accepted, wanted);
                tokio::time::timeout(deadline, opened)
                    .await
                    .map_err(|_| SessionError::TooSlow)?
            }
        }
    }

    async fn over_channels<IO>(
        io: IO,
        form: Form,
        results: Results,
        wanted: Wanted,
        limits: Limits,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let make = |shared: &Arc<Shared>| {
            let channel = |wanted: bool, id: u32| wanted.then(|| shared.channel(id));
            (
                [
                    channel(wanted.stdin, STDIN),
                    channel(wanted.stdout, STDOUT),
                    channel(wanted.stderr(), STDERR),
                    channel(wanted.tty, RESIZE),
                ],
                shared.channel(ERROR),
            )
        };
        let (connection, opened) = channels::start(io, form, limits, make).await;
        let ([stdin, stdout, stderr, resizes], error) = opened;
        let session = Self {
            stdin,
            stdout,
            stderr,
            resizes: resizes.map(Resizes::new),
            error,
            results,
            connection,
        };
        // An empty message says that all is ready.
        let first = session.stdout.as_ref().or(session.stderr.as_ref());
        first.unwrap_or(&session.error).greet(Bytes::new());
        session
    }

    async fn over_spdy(
        connection: Connection,
        accepted: &Accepted,
        wanted: Wanted,
    ) -> Result<Self, SessionError> {
        let (mut stdin, mut stdout, mut stderr, mut error, mut resize) =
            (None, None, None, None, None);
        loop {
            let ready = (wanted.stdin <= stdin.is_some())
                && (wanted.stdout <= stdout.is_some())
                && (wanted.stderr() <= stderr.is_some())
                && ((wanted.tty && accepted.resizes) <= resize.is_some());
            if ready && let Some(error) = error.take() {
                return Ok(Self {
                    stdin,
                    stdout,
                    stderr,
                    resizes: resize.map(Resizes::new),
                    error,
                    results: accepted.results,
                    connection,
                });
            }
            let (stream, headers) = connection.accept().await.ok_or(SessionError::Lost)?;
            let place = match headers.get("streamtype") {
                Some("stdin") if wanted.stdin => &mut stdin,
                Some("stdout") if wanted.stdout => &mut stdout,
                Some("stderr") if wanted.stderr() => &mut stderr,
                Some("error") => &mut error,
                Some("resize") if wanted.tty => &mut resize,
                // Dropped, and so refused.
                _ => continue,
            };
            *place = Some(stream);
        }
    }

    /// Resolves when the client has hung up. Does not hold the session.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connection.closed()
    }

    /// Tells the client how the command ended, and hangs up when it has all that was written.
    pub async fn finish(mut self, outcome: &Outcome) {
        let text = match self.results {
            Results::Status => Some(status(outcome).to_string()),
            Results::Text => message(outcome),
        };
        if let Some(text) = text {
            // A client that is gone needs no result.
            let _ = self.error.write_all(text.as_bytes()).await;
        }
        let streams = [self.stdout.take(), self.stderr.take(), Some(self.error)];
        for mut stream in streams.into_iter().flatten() {
            let _ = stream.shutdown().await;
        }
    }
}

impl Resizes {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }
}

/// The text of a failure.
fn message(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Success => None,
        Outcome::Exit(code) => Some(format!(
            "command terminated with non-zero exit code: exit status {code}"
        )),
        Outcome::Failed(message) => Some(message.clone()),
    }
}

/// The `Status` of an outcome.
fn status(outcome: &Outcome) -> Value {
    let text = message(outcome).unwrap_or_default();
    match outcome {
        Outcome::Success => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exit(code) => json!({
            "metadata": {}, "status": "Failure", "message": text, "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed(_) => json!({
            "metadata": {}, "status": "Failure", "message": text, "reason": "InternalError",
            "details": {"causes": [{"message": text}]}, "code": 500,
        }),
    }
}
