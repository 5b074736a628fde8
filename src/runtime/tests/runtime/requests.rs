//! What outgoing requests must do, tried by guests of WASI 0.2 and 0.3 alike: `wasm-examples/request-cases`.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use vaquita_net::{Listener, PodNetwork};
use vaquita_runtime::Exit;

use crate::support::{Host, start};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Says what it was asked, as the cases expect it.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let body = body.to_bytes();
    let mut answer = Response::new(text(format!("{} {} {}", head.method, head.uri, body.len())));
    match head.uri.path() {
        "/echo" => *answer.body_mut() = text(body),
        "/teapot" => {
            *answer.status_mut() = StatusCode::IM_A_TEAPOT;
            for value in head.headers.get_all("x-sent") {
                answer.headers_mut().append("x-told", value.clone());
            }
        }
        "/trailers" => {
            let trailer = HeaderValue::from_static("x-after");
            answer.headers_mut().insert("trailer", trailer);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-after", HeaderValue::from_static("all"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"before"))),
                Ok(Frame::trailers(trailers)),
            ];
            *answer.body_mut() = StreamBody::new(stream::iter(frames)).boxed_unsync();
        }
        "/never" => std::future::pending().await,
        "/cut" => {
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"before"))),
                Err(std::io::Error::other("as it was asked")),
            ];
            *answer.body_mut() = StreamBody::new(stream::iter(frames)).boxed_unsync();
        }
        _ => {}
    }
    Ok(answer)
}

async fn serve(_network: PodNetwork, listener: Listener) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

async fn tries(guest: &str) {
    let host = Host::new();
    let network = host.fabric.attach(None).expect("an address");
    let at_80 = (network.ip(), 80).into();
    let listener = network.listen(at_80).expect("free");
    let server = network.ip().to_string();
    tokio::spawn(serve(network, listener));
    let module = host.example("wasm32-wasip2", guest).await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |config| {
        config.args = vec![guest.into(), server];
    })
    .await;
    let exit = process.wait().await;
    let text = log.text();
    let failed: Vec<_> = text
        .lines()
        .filter(|line| !line.ends_with(": ok"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(
        (exit, text.lines().count()),
        (Exit::Exited(0), 16),
        "{text}"
    );
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn of_wasi_0_2() {
    tries("request-cases").await;
}

#[tokio::test]
async fn of_wasi_0_3() {
    tries("async_request_cases").await;
}
