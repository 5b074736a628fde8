//! A request in a guest's terms, of WASI 0.2 or 0.3, and its answer in ours.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3::Request as AsyncRequest;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::state::State;

/// What a guest answers, once it does; or why it gave up on the request.
pub(super) type Given = Result<Response<WasiBody>, String>;

/// An instance's exports.
pub(super) enum Guest {
    P2(Proxy),
    P3(Service),
}

/// Why a guest did not come to its own end with a request.
pub(super) enum Unasked {
    /// The request can't be given to a guest.
    Malformed,
    Failed(wasmtime::Error),
}

impl From<wasmtime::Error> for Unasked {
    fn from(error: wasmtime::Error) -> Self {
        Self::Failed(error)
    }
}

/// Has a handler of WASI 0.2 answer. Done when it returns.
pub(super) async fn ask(
    store: &mut Store<State>,
    guest: &Proxy,
    request: Request<WasiBody>,
    give: oneshot::Sender<Given>,
) -> Result<(), Unasked> {
    let mut host = store.data_mut().http();
    let request = host
        .new_incoming_request(Scheme::Http, request)
        .map_err(|_| Unasked::Malformed)?;
    let answer = host
        .new_response_outparam_from_callback(move |given| {
            // Nobody listens if the request was given up.
            let _ = give.send(given.map_err(|code| code.to_string()));
        })
        .map_err(|_| Unasked::Malformed)?;
    let handler = guest.wasi_http_incoming_handler();
    Ok(handler.call_handle(store, request, answer).await?)
}

/// Has a handler of WASI 0.3 answer. Done when its answer's body is out, and nothing is left that it wants to do.
pub(super) async fn ask_async(
    store: &mut Store<State>,
    guest: &Service,
    request: Request<WasiBody>,
    give: oneshot::Sender<Given>,
) -> Result<(), Unasked> {
    let work = async |accessor: &Accessor<State>| {
        answer(accessor, guest, request, give).await?;
        poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
        wasmtime::Result::<()>::Ok(())
    };
    Ok(store.run_concurrent(work).await.flatten()?)
}

/// Has a handler of WASI 0.3 answer, beside whatever else its instance does. Done when its answer's body is out.
pub(super) async fn answer(
    accessor: &Accessor<State>,
    guest: &Service,
    request: Request<WasiBody>,
    give: oneshot::Sender<Given>,
) -> wasmtime::Result<()> {
    let mut outgoing = accessor.with(|mut store| store.data_mut().outgoing.clone());
    let (request, sent) = AsyncRequest::from_http(&mut outgoing, request);
    let body_is_out = match guest.handle(accessor, request).await? {
        Err(code) => {
            let _ = give.send(Err(code.to_string()));
            None
        }
        Ok(answer) => {
            let (out, is_out) = oneshot::channel();
            let answer = accessor.with(|store| answer.into_http(store, sent))?;
            let answer = answer.map(|body| {
                let out = Some(out);
                Watched { body, out }.boxed_unsync()
            });
            let _ = give.send(Ok(answer));
            Some(is_out)
        }
    };
    if let Some(is_out) = body_is_out {
        // The body is dropped, if it does not come to its end: that is one, too.
        let _ = is_out.await;
    }
    Ok(())
}

/// A body that tells when it is over.
struct Watched<B> {
    body: B,
    out: Option<oneshot::Sender<()>>,
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.out = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
