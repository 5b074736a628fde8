//! Standard output and error: from a guest's writes to the lines of a [`LogSink`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::log::{LogSink, LogStream};

/// The longest line that reaches a sink in one piece, newline included.
const LONGEST_LINE: usize = 16 << 10;

/// The most a guest may write at once.
const LARGEST_WRITE: usize = 64 << 10;

/// One output stream of one instance. Clones write to the same line.
#[derive(Clone)]
pub(crate) struct Output {
    line: Arc<Mutex<Line>>,
    sink: Arc<dyn LogSink>,
}

impl Output {
    pub(crate) fn new(sink: Arc<dyn LogSink>, stream: LogStream) -> Self {
        let line = Line {
            sink: Arc::clone(&sink),
            stream,
            unfinished: Vec::new(),
        };
        Self {
            line: Arc::new(Mutex::new(line)),
            sink,
        }
    }

    fn take(&self, bytes: &[u8]) {
        self.line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes);
    }
}

/// Cuts bytes into lines.
struct Line {
    sink: Arc<dyn LogSink>,
    stream: LogStream,
    /// The beginning of a line whose end was not written yet; shorter than `LONGEST_LINE`.
    unfinished: Vec<u8>,
}

impl Line {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.unfinished.len();
            let reach = &bytes[..bytes.len().min(room)];
            let newline = reach.iter().position(|byte| *byte == b'\n');
            let (piece, rest) = bytes.split_at(newline.map_or(reach.len(), |at| at + 1));
            bytes = rest;
            let complete = newline.is_some() || self.unfinished.len() + piece.len() == LONGEST_LINE;
            match (complete, self.unfinished.is_empty()) {
                (true, true) => self.sink.write(self.stream, piece),
                (true, false) => {
                    self.unfinished.extend_from_slice(piece);
                    self.flush();
                }
                (false, _) => self.unfinished.extend_from_slice(piece),
            }
        }
    }

    fn flush(&mut self) {
        if !self.unfinished.is_empty() {
            self.sink.write(self.stream, &self.unfinished);
            self.unfinished.clear();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Writer {
            output: self.clone(),
            permitted: false,
        })
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.sink.poll_ready(context));
        let bytes = &bytes[..bytes.len().min(LARGEST_WRITE)];
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A handle of WASI 0.2 (and 0.1) on an output.
struct Writer {
    output: Output,
    /// Set once the sink was ready, so that whoever waited for it may write, whatever others did to it meanwhile.
    permitted: bool,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        if !self.permitted {
            poll_fn(|context| self.output.sink.poll_ready(context)).await;
            self.permitted = true;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn check_write(&mut self) -> StreamResult<usize> {
        let mut context = Context::from_waker(Waker::noop());
        self.permitted = self.permitted || self.output.sink.poll_ready(&mut context).is_ready();
        Ok(if self.permitted { LARGEST_WRITE } else { 0 })
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.permitted = false;
        self.output.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Lines {
        lines: Mutex<Vec<Vec<u8>>>,
        full: AtomicBool,
    }

    impl LogSink for Lines {
        fn write(&self, _stream: LogStream, line: &[u8]) {
            self.lines
                .lock()
                .expect("not poisoned")
                .push(line.to_owned());
        }

        fn poll_ready(&self, _context: &mut Context<'_>) -> Poll<()> {
            if self.full.load(Ordering::SeqCst) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        }
    }

    fn written(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let sink = Arc::new(Lines::default());
        let output = Output::new(Arc::clone(&sink) as Arc<dyn LogSink>, LogStream::Stdout);
        for piece in pieces {
            output.take(piece);
        }
        drop(output);
        sink.lines.lock().expect("not poisoned").clone()
    }

    #[test]
    fn writes_become_lines_however_they_are_cut() {
        let expected: Vec<Vec<u8>> = vec![
            b"one\n".into(),
            b"\n".into(),
            b"two\n".into(),
            b"rest".into(),
        ];
        let whole = b"one\n\ntwo\nrest";
        for cut in 0..=whole.len() {
            let (before, after) = whole.split_at(cut);
            assert_eq!(written(&[before, after]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_is_passed_on_in_bounded_parts() {
        let long = vec![b'x'; 3 * LONGEST_LINE + 1];
        for parts in [vec![&long[..]], long.chunks(1000).collect()] {
            let lengths: Vec<_> = written(&parts).iter().map(Vec::len).collect();
            assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, LONGEST_LINE, 1]);
        }
    }

    #[test]
    fn a_sink_that_is_behind_holds_back_writes() {
        let sink = Arc::new(Lines::default());
        let output = Output::new(Arc::clone(&sink) as Arc<dyn LogSink>, LogStream::Stderr);
        let mut writer = Writer {
            output,
            permitted: false,
        };
        sink.full.store(true, Ordering::SeqCst);
        assert_eq!(writer.check_write().expect("open"), 0);
        sink.full.store(false, Ordering::SeqCst);
        assert_eq!(writer.check_write().expect("open"), LARGEST_WRITE);
        sink.full.store(true, Ordering::SeqCst);
        assert_eq!(
            writer.check_write().expect("open"),
            LARGEST_WRITE,
            "a permit is kept"
        );
        writer.write(Bytes::from_static(b"line\n")).expect("open");
        assert_eq!(writer.check_write().expect("open"), 0);
    }
}
