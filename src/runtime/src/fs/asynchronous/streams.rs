//! The streams of files and directories: what is read, what is written, and what is listed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use vaquita_guest_fs::{Entry, LARGEST_PIECE, OpenDir, OpenFile};
use wasmtime::component::{Destination, Source, StreamConsumer, StreamProducer, StreamResult};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::p3::bindings::filesystem::types::DirectoryEntry;

use super::super::charge;
use super::{Told, code_of, type_of};
use crate::budget::{Charge, Purse};

type Working<T> = Pin<Box<dyn Future<Output = Result<T, Errno>> + Send>>;

/// Tells how a stream ended, once.
struct Ending(Option<Told>);

impl Ending {
    fn end(&mut self, result: Result<(), Errno>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(tell) = self.0.take() {
            let _ = tell.send(result.map_err(code_of));
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

/// What is read of a file.
pub(super) struct Reading {
    file: OpenFile,
    at: u64,
    under_way: Option<Working<Bytes>>,
    ending: Ending,
}

impl Reading {
    pub(super) fn new(file: OpenFile, at: u64, tell: Told) -> Self {
        Self {
            file,
            at,
            under_way: None,
            ending: Ending(Some(tell)),
        }
    }
}

impl<T> StreamProducer<T> for Reading {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, u8, BytesMut>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if this.ending.0.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        // A file can always be read.
        if destination.remaining(store.as_context_mut()) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let (file, at) = (&this.file, this.at);
        let reading = this.under_way.get_or_insert_with(|| {
            let file = file.clone();
            Box::pin(async move { file.read(at, LARGEST_PIECE).await })
        });
        let read = match reading.as_mut().poll(context) {
            Poll::Ready(read) => read,
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.under_way = None;
        match read {
            Ok(bytes) if bytes.is_empty() => this.ending.end(Ok(())),
            Ok(bytes) => {
                this.at = at.saturating_add(bytes.len() as u64);
                destination.set_buffer(bytes.into());
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => this.ending.end(Err(error)),
        }
    }
}

/// What is written to a file.
pub(super) struct Writing {
    file: OpenFile,
    /// None for its end.
    at: Option<u64>,
    under_way: Option<Working<usize>>,
    ending: Ending,
}

impl Writing {
    pub(super) fn new(file: OpenFile, at: Option<u64>, tell: Told) -> Self {
        Self {
            file,
            at,
            under_way: None,
            ending: Ending(Some(tell)),
        }
    }
}

impl<T> StreamConsumer<T> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<T>,
        source: Source<'_, u8>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if this.ending.0.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let mut source = source.as_direct(store);
        let left = source.remaining();
        if left.is_empty() && this.under_way.is_none() {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let (file, at) = (&this.file, this.at);
        let writing = this.under_way.get_or_insert_with(|| {
            let (file, piece) = (file.clone(), &left[..left.len().min(LARGEST_PIECE)]);
            let bytes = Bytes::copy_from_slice(piece);
            Box::pin(async move {
                match at {
                    Some(at) => file.write(at, bytes).await,
                    None => file.append(bytes).await,
                }
            })
        });
        // What is on its way to the disk is not called back.
        let written = std::task::ready!(writing.as_mut().poll(context));
        this.under_way = None;
        match written {
            Ok(written) => {
                this.at = at.map(|at| at.saturating_add(written as u64));
                source.mark_read(written);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => this.ending.end(Err(error)),
        }
    }
}

/// The entries of a directory.
pub(super) struct Listing {
    under_way: Option<Working<Vec<Entry>>>,
    entries: std::vec::IntoIter<Entry>,
    purse: Arc<Purse>,
    charge: Option<Charge>,
    ending: Ending,
}

impl Listing {
    pub(super) fn new(dir: OpenDir, purse: Arc<Purse>, tell: Told) -> Self {
        Self {
            under_way: Some(Box::pin(async move { dir.list().await })),
            entries: Vec::new().into_iter(),
            purse,
            charge: None,
            ending: Ending(Some(tell)),
        }
    }
}

impl<T> StreamProducer<T> for Listing {
    type Item = DirectoryEntry;
    type Buffer = Option<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, DirectoryEntry, Option<DirectoryEntry>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if destination.remaining(store.as_context_mut()) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        if let Some(listing) = &mut this.under_way {
            let listed = listing.as_mut().poll(context).map_ok(|entries| {
                let charge = charge(&entries, &this.purse)?;
                Ok((entries, charge))
            });
            match listed.map(Result::flatten) {
                Poll::Ready(Ok((entries, charge))) => {
                    this.entries = entries.into_iter();
                    this.charge = Some(charge);
                }
                Poll::Ready(Err(error)) => {
                    this.under_way = None;
                    return this.ending.end(Err(error));
                }
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            }
            this.under_way = None;
        }
        let Some(entry) = this.entries.next() else {
            return this.ending.end(Ok(()));
        };
        destination.set_buffer(Some(DirectoryEntry {
            type_: type_of(entry.kind),
            name: entry.name,
        }));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
