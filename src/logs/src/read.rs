//! From disk to whoever asks.
//!
//! A request is served by one task that reads a piece at a time and waits until that has been taken, so a slow client
//! costs no memory. Reading starts at the last lines that are wanted, found from the end backwards.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use vaquita_runtime::LogStream;

use super::{ContainerLog, Files, cri, write::Segment, write::open_all};

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// Bytes that are sent at once, at least, while there is more to read.
const PIECE: usize = 32 << 10;
/// A line longer than this is taken in parts: it is none of ours.
const LONGEST_LINE: usize = 1 << 20;
/// Pieces that wait for the client.
const QUEUE: usize = 4;

/// Which output streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Streams {
    /// Both.
    #[default]
    All,
    /// One of them.
    Only(LogStream),
}

/// What of a log is wanted. The default is all that there is.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Put its time before each line.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit: Option<u64>,
    /// Lines of these output streams.
    pub streams: Streams,
}

/// The log of one instance of a container.
pub struct LogReader {
    files: Files,
    live: Option<Arc<ContainerLog>>,
}

impl LogReader {
    pub(super) fn new(files: Files, live: Option<Arc<ContainerLog>>) -> Self {
        Self { files, live }
    }

    /// Starts reading. The stream ends with the log; dropping it ends the reading.
    pub fn read(self, query: Query) -> mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, stream) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let output = Output {
                pieces: pieces.clone(),
                piece: Vec::new(),
                limit: query.limit,
            };
            match self.send(query, output).await {
                Ok(()) | Err(Stop::Enough) => {}
                Err(Stop::Failed(error)) => {
                    let _ = pieces.send(Err(error)).await;
                }
            }
        });
        stream
    }

    async fn send(self, query: Query, output: Output) -> Result<(), Stop> {
        if let Some(live) = &self.live {
            live.settled().await;
        }
        // Before the first look, so that no progress is missed after the last.
        let progress = self.live.as_ref().map(|live| live.progress());
        let (files, live, tail) = (self.files, self.live.clone(), query.tail);
        let segments = blocking(move || {
            let segments = if let Some(live) = live {
                live.segments()?
            } else {
                let aside = files.numbers().into_iter();
                let aside = aside.map(|number| (number, files.aside(number)));
                open_all(aside.chain([(u64::MAX, files.current())]))?
            };
            seek(segments, tail)
        })
        .await?;

        let follow = query.follow;
        let mut reading = Reading {
            query,
            output,
            is_line_start: true,
        };
        let mut last = None;
        for segment in segments {
            let mut lines = Lines::new(segment);
            // What is written while we read is for those who follow.
            let until = if follow {
                u64::MAX
            } else {
                lines.remaining().await?
            };
            reading.all(&mut lines, until).await?;
            last = Some(lines);
        }
        if let (true, Some(live), Some(progress)) = (follow, self.live, progress) {
            reading.output.flush().await?;
            reading.follow(&live, progress, last).await?;
        }
        reading.output.flush().await
    }
}

/// Why reading ends before the log does.
enum Stop {
    /// The limit is reached, or nobody listens any more.
    Enough,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Positions the files so that reading them in order gives the last `tail` lines.
fn seek(mut segments: Vec<Segment>, tail: Option<u64>) -> io::Result<Vec<Segment>> {
    let Some(mut wanted) = tail else {
        return Ok(segments);
    };
    for index in (0..segments.len()).rev() {
        let (start, found) = last_lines(&mut segments[index].file, wanted)?;
        segments[index].file.seek(SeekFrom::Start(start))?;
        wanted -= found;
        if wanted == 0 {
            return Ok(segments.split_off(index));
        }
    }
    Ok(segments)
}

/// Where the last `wanted` lines of a file begin, and how many there are if they are fewer. An unfinished line at the
/// end counts as one.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let end = file.seek(SeekFrom::End(0))?;
    if wanted == 0 || end == 0 {
        return Ok((end, 0));
    }
    let mut block = vec![0; BLOCK];
    let mut position = end;
    let mut found = 0;
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        // At most `BLOCK`.
        let block = &mut block[..usize::try_from(length).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(block)?;
        for (offset, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let next = position + offset as u64 + 1;
            // The newline at the very end ends the last line; each before it begins one.
            if next == end {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((next, found));
            }
        }
    }
    Ok((0, found + 1))
}

/// Reads a file by lines, and goes on where it was when the file has grown.
struct Lines {
    number: u64,
    file: tokio::fs::File,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// Up to where there is no newline.
    searched: usize,
}

impl Lines {
    fn new(segment: Segment) -> Self {
        Self {
            number: segment.number,
            file: tokio::fs::File::from_std(segment.file),
            buffer: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    /// Bytes from here to the present end.
    async fn remaining(&mut self) -> io::Result<u64> {
        let position = tokio::io::AsyncSeekExt::stream_position(&mut self.file).await?;
        Ok(self.file.metadata().await?.len().saturating_sub(position))
    }

    /// The next whole line, without its newline; `None` at the present end of the file, or if `budget` bytes are read.
    async fn next(&mut self, budget: &mut u64) -> io::Result<Option<&[u8]>> {
        loop {
            let newline = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let end = match newline {
                Some(offset) => Some((self.searched + offset, 1)),
                None if self.buffer.len() - self.start >= LONGEST_LINE => {
                    Some((self.buffer.len(), 0))
                }
                None => None,
            };
            if let Some((end, newline)) = end {
                let line = self.start..end;
                self.start = end + newline;
                self.searched = self.start;
                return Ok(Some(&self.buffer[line]));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.searched = self.buffer.len();
            let block = (*budget).min(BLOCK as u64);
            let read = (&mut self.file)
                .take(block)
                .read_to_end(&mut self.buffer)
                .await?;
            if read == 0 {
                return Ok(None);
            }
            *budget -= read as u64;
        }
    }

    /// What is left at the end of a file that will not grow: an unfinished line.
    fn rest(&mut self) -> Option<&[u8]> {
        let start = std::mem::replace(&mut self.start, self.buffer.len());
        Some(&self.buffer[start..]).filter(|rest| !rest.is_empty())
    }
}

struct Reading {
    query: Query,
    output: Output,
    /// Whether what comes next begins a line of the output.
    is_line_start: bool,
}

impl Reading {
    async fn all(&mut self, lines: &mut Lines, mut budget: u64) -> Result<(), Stop> {
        while let Some(line) = lines.next(&mut budget).await? {
            if self.take(line) {
                self.output.send_if_full().await?;
            }
        }
        Ok(())
    }

    /// Goes on until the container's log is closed.
    async fn follow(
        &mut self,
        live: &Arc<ContainerLog>,
        mut progress: tokio::sync::watch::Receiver<super::write::Progress>,
        mut last: Option<Lines>,
    ) -> Result<(), Stop> {
        loop {
            let is_closed = progress.borrow_and_update().is_closed;
            // Whatever was written before that look is on disk now: here, or in files that came after.
            if let Some(lines) = &mut last {
                self.all(lines, u64::MAX).await?;
            }
            let (log, number) = (live.clone(), last.as_ref().map(|lines| lines.number));
            let newer = blocking(move || match number {
                Some(number) => log.segments_after(number),
                None => log.segments(),
            });
            for segment in newer.await? {
                // Between our last look and the renaming, something may have been added.
                if let Some(lines) = &mut last {
                    self.all(lines, u64::MAX).await?;
                }
                let mut lines = Lines::new(segment);
                self.all(&mut lines, u64::MAX).await?;
                last = Some(lines);
            }
            self.output.flush().await?;
            if is_closed {
                if let Some(rest) = last.as_mut().and_then(Lines::rest) {
                    self.take(rest);
                }
                return Ok(());
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ok(()) },
                () = self.output.pieces.closed() => return Err(Stop::Enough),
            }
        }
    }

    /// Puts a line into the output if it is wanted, and says whether it was.
    fn take(&mut self, line: &[u8]) -> bool {
        let Some(parsed) = cri::parse(line) else {
            self.output.put(line);
            self.output.put(b"\n");
            return true;
        };
        let is_stream = match self.query.streams {
            Streams::All => true,
            Streams::Only(stream) => stream == parsed.stream,
        };
        let is_recent = self.query.since.is_none_or(|since| {
            parsed
                .time
                .parse::<Timestamp>()
                .map_or(true, |time| time >= since)
        });
        if !is_stream || !is_recent {
            return false;
        }
        if self.query.timestamps && self.is_line_start {
            self.output.put(parsed.time.as_bytes());
            self.output.put(b" ");
        }
        self.output.put(parsed.content);
        if !parsed.is_partial {
            self.output.put(b"\n");
        }
        self.is_line_start = !parsed.is_partial;
        true
    }
}

struct Output {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    /// Bytes that may still be sent.
    limit: Option<u64>,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        self.piece.extend_from_slice(bytes);
    }

    async fn send_if_full(&mut self) -> Result<(), Stop> {
        let is_enough = self
            .limit
            .is_some_and(|limit| self.piece.len() as u64 >= limit);
        if self.piece.len() >= PIECE || is_enough {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let mut piece = std::mem::take(&mut self.piece);
        if let Some(limit) = &mut self.limit {
            piece.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
            *limit -= piece.len() as u64;
        }
        if !piece.is_empty() && self.pieces.send(Ok(piece.into())).await.is_err() {
            return Err(Stop::Enough);
        }
        if self.limit == Some(0) {
            Err(Stop::Enough)
        } else {
            Ok(())
        }
    }
}
