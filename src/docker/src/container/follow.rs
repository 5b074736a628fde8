//! Following a container to its end: its output, and how it ended.

use std::{
    future::{poll_fn, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{
    container::LogOutput,
    errors::Error,
    query_parameters::{LogsOptionsBuilder, WaitContainerOptions},
};
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Exit, lock,
    resume::{Logged, Overlap},
};
use crate::{
    engine::{Engine, EngineError},
    hijack::Frames,
    output::{Channel, Output},
    usage::Groups,
};

/// How long output may still come after the container has ended.
const DRAIN: Duration = Duration::from_secs(5);
/// How soon an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// The code of a container that is gone without a trace.
const LOST: i32 = 137;

/// Where output comes from.
pub(super) enum Source {
    /// The container's streams.
    Attached(Frames),
    /// What the engine has kept and the caller does not have, whose log ends with these lines; and what comes.
    Log { tail: Vec<Logged> },
}

/// Follows one container.
pub(super) struct Follower {
    pub(super) engine: Engine,
    pub(super) id: String,
    pub(super) groups: Arc<Mutex<Option<Groups>>>,
}

impl Follower {
    pub(super) async fn run(
        self,
        source: Source,
        output: Arc<dyn Output>,
        ended: watch::Sender<Option<Exit>>,
    ) {
        let exit = {
            let mut copying = std::pin::pin!(self.copy(source, &*output));
            let waiting = async {
                self.find_groups().await;
                self.exit().await
            };
            let mut is_copied = false;
            let exit = {
                let mut waiting = std::pin::pin!(waiting);
                loop {
                    tokio::select! {
                        exit = &mut waiting => break exit,
                        () = &mut copying, if !is_copied => is_copied = true,
                    }
                }
            };
            if !is_copied {
                // Something else may hold the streams open.
                let _ = timeout(DRAIN, copying).await;
            }
            exit
        };
        output.finish();
        ended.send_replace(Some(exit));
    }

    async fn copy(&self, source: Source, output: &dyn Output) {
        match source {
            Source::Attached(mut frames) => {
                while let Ok(Some((channel, piece))) = frames.next().await {
                    let channel = if channel == 2 {
                        Channel::Stderr
                    } else {
                        Channel::Stdout
                    };
                    poll_fn(|context| output.poll_ready(context)).await;
                    output.write(channel, &piece);
                }
            }
            Source::Log { tail } => self.go_on(Overlap::new(tail), output).await,
        }
    }

    /// Takes the output from the engine's log, from where the caller's ends.
    async fn go_on(&self, mut overlap: Overlap, output: &dyn Output) {
        let mut last = i64::MIN;
        let mut kept = self.log(overlap.since(), false);
        while let Some(line) = kept.next().await {
            last = last.max(line.time);
            if let Err(line) = overlap.put(line) {
                hand_on(overlap.news(), output).await;
                hand_on([line], output).await;
            }
        }
        hand_on(overlap.news(), output).await;
        let mut coming = self.log(last.max(0) / 1_000_000_000, true);
        while let Some(line) = coming.next().await {
            if line.time > last {
                hand_on([line], output).await;
            }
        }
    }

    /// The engine's log from a time on, in seconds since 1970, to its end or as long as the container runs.
    fn log(&self, since: i64, follow: bool) -> impl Stream<Item = Logged> + Send + Unpin {
        let options = LogsOptionsBuilder::default()
            .follow(follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .since(i32::try_from(since).unwrap_or(0))
            .build();
        let pieces = self.engine.docker.logs(&self.id, Some(options));
        let pieces = pieces.take_while(|piece| ready(piece.is_ok()));
        pieces
            .filter_map(|piece| ready(piece.ok().map(line)))
            .boxed()
    }

    /// Finds out where the kernel counts what the container uses. On another machine, nobody knows.
    async fn find_groups(&self) {
        let Ok(found) = self.engine.docker.inspect_container(&self.id, None).await else {
            return;
        };
        let pid = found.state.and_then(|state| state.pid);
        let pid = pid
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0);
        if let Some(groups) = pid.and_then(Groups::of) {
            *lock(&self.groups) = Some(groups);
        }
    }

    /// Waits for the end, however often the engine goes away meanwhile.
    async fn exit(&self) -> Exit {
        loop {
            let waiting = self
                .engine
                .docker
                .wait_container(&self.id, None::<WaitContainerOptions>);
            let answer = waiting.boxed().next().await;
            let is_over = matches!(
                answer,
                Some(Ok(_) | Err(Error::DockerContainerWaitError { .. }))
            );
            match self.state().await {
                Ok(Some(exit)) => return exit,
                Ok(None) if is_over => {}
                Err(error) if error.is_absent() => {
                    return Exit {
                        code: LOST,
                        message: Some("the container was removed from outside".to_owned()),
                        ..Exit::default()
                    };
                }
                Ok(None) | Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// How it ended; `None` if it has not.
    async fn state(&self) -> Result<Option<Exit>, EngineError> {
        let found = self.engine.docker.inspect_container(&self.id, None).await;
        let found = found.map_err(EngineError::of("looking for a container"))?;
        let state = found.state.unwrap_or_default();
        if state.running == Some(true) || state.restarting == Some(true) {
            return Ok(None);
        }
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
        Ok(Some(Exit {
            code: code.unwrap_or(LOST),
            is_out_of_memory: state.oom_killed == Some(true),
            message: state.error.filter(|message| !message.is_empty()),
        }))
    }
}

async fn hand_on(lines: impl IntoIterator<Item = Logged>, output: &dyn Output) {
    for line in lines {
        poll_fn(|context| output.poll_ready(context)).await;
        output.write(line.channel, &line.text);
    }
}

/// A line of the engine's log, which begins with its time.
fn line(piece: LogOutput) -> Logged {
    let channel = match piece {
        LogOutput::StdErr { .. } => Channel::Stderr,
        _ => Channel::Stdout,
    };
    let bytes = piece.into_bytes();
    let end = bytes.iter().position(|byte| *byte == b' ');
    let (time, text) = bytes.split_at(end.map_or(0, |end| end + 1));
    let time = std::str::from_utf8(time).ok();
    let time = time.and_then(|time| time.trim_end().parse::<jiff::Timestamp>().ok());
    match time {
        Some(time) => Logged {
            time: i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX),
            channel,
            text: text.to_vec(),
        },
        // Not as it should be: handed on as it is.
        None => Logged {
            time: i64::MAX,
            channel,
            text: bytes.to_vec(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_from_its_time() {
        let said = |text: &'static str| {
            line(LogOutput::StdErr {
                message: text.into(),
            })
        };
        let whole = said("1970-01-01T00:00:02.000000003Z a b\n");
        assert_eq!(
            (whole.time, whole.channel, whole.text.as_slice()),
            (2_000_000_003, Channel::Stderr, &b"a b\n"[..])
        );
        assert_eq!(said("1970-01-01T00:00:02.000000003Z ").text, b"");
        assert_eq!(said("a b").text, b"a b");
    }
}
