//! Bodies that guests of WASI 0.2 write, on their process's account until they are sent.
//!
//! Where a body is kept depends on how far it has come: with its stream, its request or response, a connection. So what is
//! charged is each piece of it, wherever it goes.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::HostOutgoingBody as _;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;

use std::sync::Arc;

use crate::budget::{Charge, Purse};
use crate::state::State;

/// Where `wasi:http@0.2` has what is replaced.
const INTERFACE: &str = "wasi:http/types@0.2.12";

/// What is kept for a piece beside its bytes.
const PIECE: u64 = 128;

type Written = Result<Resource<DynOutputStream>, ()>;

/// Has the streams of outgoing bodies charge what is written to them.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap(
        "[method]outgoing-body.write",
        |mut store: StoreContextMut<'_, State>, (body,): (Resource<HostOutgoingBody>,)| {
            let state = store.data_mut();
            let written: Written = state.http().write(body)?;
            if let Ok(stream) = &written {
                let stream = state.table.get_mut(stream)?;
                let inner: DynOutputStream = std::mem::replace(stream, Box::new(Gone));
                *stream = Box::new(Charging {
                    inner,
                    purse: Arc::clone(&state.purse),
                });
            }
            Ok((written,))
        },
    )
}

/// A body's stream, with who pays for it.
struct Charging {
    inner: DynOutputStream,
    purse: Arc<Purse>,
}

/// Bytes with what was paid for them.
struct Paid {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Charging {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Charging {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let charge = self.purse.charge(bytes.len() as u64 + PIECE);
        let Some(charge) = charge else {
            let error = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Err(StreamError::LastOperationFailed(error.into()));
        };
        self.inner.write(Bytes::from_owner(Paid {
            bytes,
            _charge: charge,
        }))
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// Stands for a stream while it is moved.
struct Gone;

#[wasmtime_wasi::async_trait]
impl Pollable for Gone {
    async fn ready(&mut self) {}
}

impl OutputStream for Gone {
    fn write(&mut self, _bytes: Bytes) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(StreamError::Closed)
    }
}
