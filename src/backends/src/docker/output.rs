//! From what a container writes to its log, line by line, and to whoever is attached.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use vaquita_docker::{Channel, Output};
use vaquita_runtime::{LogSink, LogStream, OutputSink};

/// The longest piece of a line that is logged at once, in bytes: what longer lines are cut into, upstream too.
const LONGEST_LINE: usize = 16 << 10;

/// Takes a container's output.
pub(super) struct Tap {
    log: Arc<dyn LogSink>,
    screen: Option<Arc<dyn OutputSink>>,
    lines: Mutex<Lines>,
}

/// What of each stream is no whole line yet.
#[derive(Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Tap {
    pub(super) fn new(log: Arc<dyn LogSink>, screen: Option<Arc<dyn OutputSink>>) -> Self {
        Self {
            log,
            screen,
            lines: Mutex::default(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands whole lines to the log, and keeps the rest.
fn log_lines(log: &dyn LogSink, stream: LogStream, rest: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        let mut piece = piece;
        while rest.len() + piece.len() > LONGEST_LINE {
            let (now, later) = piece.split_at(LONGEST_LINE.saturating_sub(rest.len()));
            rest.extend_from_slice(now);
            log.write(stream, rest);
            rest.clear();
            piece = later;
        }
        rest.extend_from_slice(piece);
        if rest.last() == Some(&b'\n') {
            log.write(stream, rest);
            rest.clear();
        }
    }
}

fn stream(channel: Channel) -> LogStream {
    match channel {
        Channel::Stdout => LogStream::Stdout,
        Channel::Stderr => LogStream::Stderr,
    }
}

impl Output for Tap {
    fn write(&self, channel: Channel, bytes: &[u8]) {
        let stream = stream(channel);
        {
            let mut lines = self.lines();
            let rest = match channel {
                Channel::Stdout => &mut lines.stdout,
                Channel::Stderr => &mut lines.stderr,
            };
            log_lines(&*self.log, stream, rest, bytes);
        }
        if let Some(screen) = &self.screen {
            screen.write(stream, bytes);
        }
    }

    fn finish(&self) {
        let left = std::mem::take(&mut *self.lines());
        for (stream, rest) in [
            (LogStream::Stdout, left.stdout),
            (LogStream::Stderr, left.stderr),
        ] {
            if !rest.is_empty() {
                self.log.write(stream, &rest);
            }
        }
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.log.poll_ready(context).is_pending() {
            return Poll::Pending;
        }
        match &self.screen {
            Some(screen) => screen.poll_ready(context),
            None => Poll::Ready(()),
        }
    }
}

/// Takes a command's output.
pub(super) struct ToScreen(pub(super) Arc<dyn OutputSink>);

impl Output for ToScreen {
    fn write(&self, channel: Channel, bytes: &[u8]) {
        self.0.write(stream(channel), bytes);
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_ready(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(LogStream, Vec<u8>)>>);

    impl LogSink for Kept {
        fn write(&self, stream: LogStream, line: &[u8]) {
            self.0.lock().unwrap().push((stream, line.to_vec()));
        }
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let kept = Arc::new(Kept::default());
        let tap = Tap::new(kept.clone(), None);
        tap.write(Channel::Stdout, b"one\ntw");
        tap.write(Channel::Stderr, b"error\n");
        tap.write(Channel::Stdout, b"o\nrest");
        tap.finish();
        let lines = kept.0.lock().unwrap();
        let all: Vec<(LogStream, &str)> = lines
            .iter()
            .map(|(stream, line)| (*stream, std::str::from_utf8(line).unwrap()))
            .collect();
        assert_eq!(
            all,
            [
                (LogStream::Stdout, "one\n"),
                (LogStream::Stderr, "error\n"),
                (LogStream::Stdout, "two\n"),
                (LogStream::Stdout, "rest"),
            ]
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let kept = Arc::new(Kept::default());
        let tap = Tap::new(kept.clone(), None);
        for _ in 0..5 {
            tap.write(Channel::Stdout, &vec![b'x'; 10 << 10]);
        }
        tap.finish();
        let lines = kept.0.lock().unwrap();
        assert!(lines.iter().all(|(_, line)| line.len() <= LONGEST_LINE));
        assert_eq!(
            lines.iter().map(|(_, line)| line.len()).sum::<usize>(),
            50 << 10
        );
    }
}
