//! Standard output and error: from a guest's writes to the lines of a [`LogSink`], and as they are to an [`OutputSink`].
//! Standard input: from whoever is attached to the one instance of a program.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::pipe::ClosedInputStream;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::log::{LogSink, LogStream, OutputSink};

/// The longest line that reaches a sink in one piece, newline included.
const LONGEST_LINE: usize = 16 << 10;

/// The most a guest may write at once.
const LARGEST_WRITE: usize = 64 << 10;

/// The most that is read ahead.
const LARGEST_READ: usize = 8 << 10;

/// Where a process's output goes.
#[derive(Clone)]
pub(crate) struct Outputs {
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) attached: Option<Arc<dyn OutputSink>>,
    pub(crate) tty: bool,
}

impl Outputs {
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        // Both are asked, so that each knows who waits.
        let log = self.log.poll_ready(context);
        let attached = self
            .attached
            .as_ref()
            .map_or(Poll::Ready(()), |sink| sink.poll_ready(context));
        if log.is_ready() { attached } else { log }
    }
}

/// One output stream of one instance. Clones write to the same line.
#[derive(Clone)]
pub(crate) struct Output {
    line: Arc<Mutex<Line>>,
    outputs: Outputs,
    stream: LogStream,
}

impl Output {
    pub(crate) fn new(outputs: &Outputs, stream: LogStream) -> Self {
        let line = Line {
            sink: Arc::clone(&outputs.log),
            stream,
            unfinished: Vec::new(),
        };
        Self {
            line: Arc::new(Mutex::new(line)),
            outputs: outputs.clone(),
            stream,
        }
    }

    fn take(&self, bytes: &[u8]) {
        if let Some(attached) = &self.outputs.attached {
            for piece in bytes.chunks(LARGEST_WRITE) {
                attached.write(self.stream, piece);
            }
        }
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
        self.outputs.tty
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
        std::task::ready!(self.outputs.poll_ready(context));
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
            poll_fn(|context| self.output.outputs.poll_ready(context)).await;
            self.permitted = true;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn check_write(&mut self) -> StreamResult<usize> {
        let mut context = Context::from_waker(Waker::noop());
        self.permitted = self.permitted || self.output.outputs.poll_ready(&mut context).is_ready();
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

/// A process's standard input, until its instance takes it.
pub(crate) struct Stdin {
    source: Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>,
    tty: bool,
}

impl Stdin {
    pub(crate) fn new(source: Option<Box<dyn AsyncRead + Send + Unpin>>, tty: bool) -> Self {
        Self {
            source: Mutex::new(source),
            tty,
        }
    }
}

/// One instance's standard input: the process's for the first one, nothing for others. All handles on it read on
/// where the last one stopped.
#[derive(Clone)]
pub(crate) struct Input {
    source: Option<Arc<Mutex<Source>>>,
    tty: bool,
}

/// What is read from, with what arrived and nobody has taken yet.
struct Source {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    arrived: Bytes,
    ended: bool,
}

impl Source {
    /// Waits until there is something to be taken, or will never be.
    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended || !self.arrived.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; LARGEST_READ];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = std::task::ready!(Pin::new(&mut self.reader).poll_read(context, &mut buffer));
        self.arrived = Bytes::copy_from_slice(buffer.filled());
        self.ended = self.arrived.is_empty();
        Poll::Ready(read)
    }

    fn take(&mut self, most: usize) -> Bytes {
        self.arrived.split_to(most.min(self.arrived.len()))
    }
}

impl Input {
    pub(crate) fn new(stdin: &Stdin) -> Self {
        let source = stdin
            .source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let source = source.map(|reader| {
            Arc::new(Mutex::new(Source {
                reader,
                arrived: Bytes::new(),
                ended: false,
            }))
        });
        Self {
            source,
            tty: stdin.tty,
        }
    }
}

impl Input {
    /// Waits until there is something to be read, or will never be.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(source) = &self.source else {
            return Poll::Ready(());
        };
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        source.poll_arrived(context).map(drop)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        match &self.source {
            Some(source) => Box::new(Reader(Arc::clone(source))),
            None => Box::new(tokio::io::empty()),
        }
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        match &self.source {
            Some(source) => Box::new(Reader(Arc::clone(source))),
            None => Box::new(ClosedInputStream),
        }
    }
}

/// A handle on standard input.
struct Reader(Arc<Mutex<Source>>);

impl Reader {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut source = self.source();
        std::task::ready!(source.poll_arrived(context))?;
        buffer.put_slice(&source.take(buffer.remaining()));
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        // What went wrong is told to the one who reads.
        poll_fn(|context| self.source().poll_arrived(context).map(drop)).await;
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut source = self.source();
        match source.poll_arrived(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(Bytes::new()),
            Poll::Ready(Err(error)) => Err(StreamError::LastOperationFailed(error.into())),
            Poll::Ready(Ok(())) if source.ended => Err(StreamError::Closed),
            Poll::Ready(Ok(())) => Ok(source.take(size)),
        }
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

    fn outputs(sink: &Arc<Lines>) -> Outputs {
        Outputs {
            log: Arc::clone(sink) as Arc<dyn LogSink>,
            attached: None,
            tty: false,
        }
    }

    fn written(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let sink = Arc::new(Lines::default());
        let output = Output::new(&outputs(&sink), LogStream::Stdout);
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

    #[tokio::test]
    async fn input_arrives_as_it_is_written_and_ends() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let stdin = Stdin::new(Some(Box::new(ours)), true);
        let input = Input::new(&stdin);
        assert!(input.is_terminal());
        let mut stream = input.p2_stream();
        assert_eq!(stream.read(8).expect("open"), Bytes::new());
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"hello")
            .await
            .expect("open");
        stream.ready().await;
        assert_eq!(&stream.read(2).expect("open")[..], b"he");
        assert_eq!(&input.p2_stream().read(8).expect("open")[..], b"llo");
        drop(theirs);
        stream.ready().await;
        assert!(matches!(stream.read(8), Err(StreamError::Closed)));
        let mut second = Input::new(&stdin).p2_stream();
        assert!(matches!(second.read(8), Err(StreamError::Closed)));
    }

    #[test]
    fn a_sink_that_is_behind_holds_back_writes() {
        let sink = Arc::new(Lines::default());
        let output = Output::new(&outputs(&sink), LogStream::Stderr);
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
