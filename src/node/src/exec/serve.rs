//! The node's end of `kubectl exec` and `kubectl attach`: a session's streams, joined to those of a process.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use vaquita_backends::{ExitReason, Instance};
use vaquita_runtime::LogStream;
use vaquita_streams::{ExecSession, Outcome, Resizes, Stream};

use super::{
    Command, Executor, Live, find,
    outlet::Outlet,
    tty::{Typed, to_terminal},
};
use crate::pod::board::Board;

/// The code of a process that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: i32 = 130;
/// Bytes that are copied at once.
const PIECE: usize = 16 << 10;

/// Runs a command for a client, until the command has ended or the client is gone.
pub(crate) async fn exec(
    executor: &Executor,
    pod: &Pod,
    board: &Board,
    container: &str,
    args: Vec<String>,
    mut session: ExecSession,
    tty: bool,
) {
    let (output, interrupted) = (Arc::new(Outlet::default()), CancellationToken::new());
    let live = board.live(container);
    let is_kernels = live.is_some_and(|live| live.instance.has_own_terminal());
    let keys = session.stdin.take();
    let stdin: Option<Box<dyn AsyncRead + Send + Unpin>> = match keys {
        Some(keys) if tty && !is_kernels => Some(Box::new(Typed::new(
            keys,
            output.clone(),
            interrupted.clone(),
        ))),
        Some(keys) => Some(Box::new(keys)),
        None => None,
    };
    let command = Command {
        args,
        stdin,
        output: output.clone(),
        tty,
    };
    let instance = match executor.start(pod, board, container, command).await {
        Ok(instance) => instance,
        Err(error) => {
            let message = format!("failed to exec in container: {error}");
            return session.finish(&Outcome::Failed(message)).await;
        }
    };
    let gone = session.gone();
    let mut screen = Screen::of(&mut session, tty);
    screen.is_raw = is_kernels;
    let resizes = session.resizes.take();
    let ended = async {
        let exit = tokio::select! {
            exit = instance.wait() => exit,
            () = interrupted.cancelled() => {
                instance.kill();
                let mut exit = instance.wait().await;
                (exit.code, exit.message) = (INTERRUPTED, None);
                exit
            }
        };
        output.finish();
        exit
    };
    let exit = tokio::select! {
        (exit, ()) = async { tokio::join!(ended, screen.show(&output)) } => exit,
        () = follow_size(&*instance, resizes) => unreachable!("sizes are followed for ever"),
        () = gone => {
            output.close();
            instance.kill();
            return;
        }
    };
    if let Some(message) = exit
        .message
        .filter(|_| exit.reason != ExitReason::Completed)
    {
        screen
            .write(LogStream::Stderr, format!("{message}\n").as_bytes())
            .await;
    }
    screen.give_back(&mut session);
    let outcome = match exit.code {
        0 => Outcome::Success,
        code => Outcome::Exit(code),
    };
    session.finish(&outcome).await;
}

/// Joins a client to a container, until the container has ended or the client is gone.
pub(crate) async fn attach(
    live: &Live,
    pod: &Pod,
    container: &str,
    mut session: ExecSession,
    tty: bool,
) {
    let output = live.hub.attach();
    let is_kernels = live.instance.has_own_terminal();
    let interrupted = CancellationToken::new();
    let keys = session.stdin.take();
    let is_once = find(pod, container).is_some_and(|container| container.stdin_once == Some(true));
    let typing = async {
        if let Some(keys) = keys {
            if tty && !is_kernels {
                let typed = Typed::new(keys, output.clone(), interrupted.clone());
                pass_on(typed, live, is_once).await;
            } else {
                pass_on(keys, live, is_once).await;
            }
        }
        // The end of what is typed is not the end of what is shown.
        std::future::pending::<()>().await;
    };
    let gone = session.gone();
    let mut screen = Screen::of(&mut session, tty);
    screen.is_raw = is_kernels;
    let resizes = session.resizes.take();
    tokio::select! {
        () = follow_size(&*live.instance, resizes) => {}
        () = screen.show(&output) => {}
        () = typing => {}
        () = interrupted.cancelled() => {}
        () = gone => {
            output.close();
            return;
        }
    }
    output.close();
    screen.give_back(&mut session);
    session.finish(&Outcome::Success).await;
}

/// Copies what is typed to the container's standard input, and closes that if it is for one client only.
async fn pass_on(mut keys: impl AsyncRead + Unpin, live: &Live, is_once: bool) {
    let Some(stdin) = &live.stdin else { return };
    let mut piece = vec![0; PIECE];
    loop {
        let count = tokio::io::AsyncReadExt::read(&mut keys, &mut piece).await;
        let Ok(count @ 1..) = count else { break };
        // Clients take turns, piece by piece.
        let mut stdin = stdin.lock().await;
        let Some(open) = stdin.as_mut() else { return };
        if open.write_all(&piece[..count]).await.is_err() {
            *stdin = None;
            return;
        }
    }
    if is_once {
        *stdin.lock().await = None;
    }
}

/// Where a client sees what is written.
struct Screen {
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    is_terminal: bool,
    /// Whether what is written is shown as it is, because a terminal has had it already.
    is_raw: bool,
}

/// Tells a terminal its sizes, for ever.
async fn follow_size(instance: &dyn Instance, resizes: Option<Resizes>) {
    if let Some(mut resizes) = resizes {
        while let Some(size) = resizes.next().await {
            instance.set_terminal_size(size.width, size.height).await;
        }
    }
    std::future::pending::<()>().await;
}

impl Screen {
    fn of(session: &mut ExecSession, is_terminal: bool) -> Self {
        Self {
            stdout: session.stdout.take(),
            stderr: session.stderr.take(),
            is_terminal,
            is_raw: false,
        }
    }

    fn give_back(self, session: &mut ExecSession) {
        (session.stdout, session.stderr) = (self.stdout, self.stderr);
    }

    /// Shows everything until there is no more.
    async fn show(&mut self, output: &Outlet) {
        while let Some((stream, piece)) = output.next().await {
            self.write(stream, &piece).await;
        }
    }

    async fn write(&mut self, stream: LogStream, piece: &[u8]) {
        let to = match stream {
            LogStream::Stderr if !self.is_terminal => &mut self.stderr,
            _ => &mut self.stdout,
        };
        let Some(to) = to else { return };
        // A client that takes no more is about to be gone.
        let _ = if self.is_terminal && !self.is_raw {
            to.write_all(&to_terminal(piece)).await
        } else {
            to.write_all(piece).await
        };
    }
}
