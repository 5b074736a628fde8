//! Streams of WASI 0.2 from and to files.

use std::io;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use vaquita_guest_fs::{LARGEST_PIECE, OpenFile, Result};

fn failed(error: Errno) -> StreamError {
    StreamError::LastOperationFailed(io::Error::from(error).into())
}

/// Reads a file from somewhere on.
pub(crate) struct FileInput {
    file: OpenFile,
    at: u64,
    state: Reading,
}

enum Reading {
    Idle,
    Waiting(JoinHandle<Result<Bytes>>),
    /// Read ahead.
    Arrived(Bytes),
    Failed(Errno),
    Ended,
}

impl FileInput {
    pub(crate) fn new(file: OpenFile, at: u64) -> Self {
        Self {
            file,
            at,
            state: Reading::Idle,
        }
    }

    fn start(&mut self, length: usize) {
        let (file, at) = (self.file.clone(), self.at);
        let read = move || file.read_now(at, length);
        self.state = Reading::Waiting(tokio::task::spawn_blocking(read));
    }

    fn arrived(&mut self, read: Result<Bytes>) {
        self.state = match read {
            Ok(bytes) if bytes.is_empty() => Reading::Ended,
            Ok(bytes) => Reading::Arrived(bytes),
            Err(error) => Reading::Failed(error),
        };
    }

    fn take(&mut self, most: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, Reading::Ended) {
            Reading::Ended => Err(StreamError::Closed),
            Reading::Failed(error) => Err(failed(error)),
            Reading::Arrived(mut bytes) => {
                let taken = bytes.split_to(most.min(bytes.len()));
                self.at += taken.len() as u64;
                self.state = if bytes.is_empty() {
                    Reading::Idle
                } else {
                    Reading::Arrived(bytes)
                };
                Ok(taken)
            }
            waiting @ (Reading::Waiting(_) | Reading::Idle) => {
                self.state = waiting;
                Ok(Bytes::new())
            }
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {
        if !self.file.blocks() {
            return;
        }
        if let Reading::Idle = self.state {
            self.start(LARGEST_PIECE);
        }
        if let Reading::Waiting(task) = &mut self.state {
            let read = task.await.unwrap_or(Err(Errno::IO));
            self.arrived(read);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        if let Reading::Idle = self.state {
            if self.file.blocks() {
                self.start(size);
            } else {
                let read = self.file.read_now(self.at, size);
                self.arrived(read);
            }
        }
        self.take(size)
    }
}

/// Writes a file from somewhere on, or at its end.
pub(crate) struct FileOutput {
    file: OpenFile,
    /// None for the end, wherever it is then.
    at: Option<u64>,
    state: Writing,
}

enum Writing {
    Idle,
    Waiting(JoinHandle<Result<()>>),
    Failed(Errno),
    Closed,
}

impl FileOutput {
    pub(crate) fn new(file: OpenFile, at: Option<u64>) -> Self {
        Self {
            file,
            at,
            state: Writing::Idle,
        }
    }

    fn written(&mut self, written: Result<()>) {
        self.state = match written {
            Ok(()) => Writing::Idle,
            Err(error) => Writing::Failed(error),
        };
    }

    fn check(&mut self) -> StreamResult<()> {
        match self.state {
            Writing::Idle | Writing::Waiting(_) => Ok(()),
            Writing::Closed => Err(StreamError::Closed),
            Writing::Failed(error) => {
                self.state = Writing::Closed;
                Err(failed(error))
            }
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {
        if let Writing::Waiting(task) = &mut self.state {
            let written = task.await.unwrap_or(Err(Errno::IO));
            self.written(written);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for FileOutput {
    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(match self.state {
            Writing::Waiting(_) => 0,
            _ => LARGEST_PIECE,
        })
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !matches!(self.state, Writing::Idle) {
            return Err(StreamError::trap("written without permission"));
        }
        let at = self.at;
        self.at = at.map(|at| at.saturating_add(bytes.len() as u64));
        if self.file.blocks() {
            let file = self.file.clone();
            let write = move || file.write_all_now(at, &bytes);
            self.state = Writing::Waiting(tokio::task::spawn_blocking(write));
        } else {
            let written = self.file.write_all_now(at, &bytes);
            self.written(written);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }
}
