//! Tries what outgoing requests must do by WASI 0.2, on the server that is its argument, and prints what came of it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use request_cases::{Answer, Answered, Ask, Client, Fields, Pairs};
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields as Handle, HeaderError, IncomingBody, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::streams::{InputStream, StreamError};

fn main() {
    let server = std::env::args().nth(1).unwrap_or_default();
    // Nothing that is done here waits but in a call.
    let mut run = pin!(request_cases::run::<Requests>(&server));
    match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lines) => println!("{}", lines.join("\n")),
        Poll::Pending => println!("it waits"),
    }
}

/// Those of WASI 0.2.
struct Requests;

struct Headers(Handle);

fn refused(what: &str) -> impl Fn(()) -> String + '_ {
    move |()| format!("{what} is refused")
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn named(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn of_fields(error: HeaderError) -> String {
    format!("{error:?}")
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn of_stream(error: StreamError) -> String {
    error.to_string()
}

impl Fields for Headers {
    fn empty() -> Self {
        Self(Handle::new())
    }

    fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    fn append(&self, name: &str, value: &[u8]) -> Answered<()> {
        self.0.append(name, value).map_err(of_fields)
    }

    fn set(&self, name: &str, value: &[u8]) -> Answered<()> {
        self.0.set(name, &[value.to_vec()]).map_err(of_fields)
    }

    fn delete(&self, name: &str) -> Answered<()> {
        self.0.delete(name).map_err(of_fields)
    }

    fn get(&self, name: &str) -> Vec<Vec<u8>> {
        self.0.get(name)
    }

    fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    fn all(&self) -> Pairs {
        self.0.entries()
    }
}

impl Client for Requests {
    type Fields = Headers;

    async fn ask(ask: &Ask<'_>) -> Answered<Answer> {
        let request = request(ask)?;
        let body = request.body().map_err(refused("body"))?;
        let options = RequestOptions::new();
        let set = options.set_first_byte_timeout(ask.patience);
        set.map_err(refused("timeout"))?;
        let coming = handle(request, Some(options)).map_err(named)?;
        write(&body, ask.body)?;
        OutgoingBody::finish(body, None).map_err(named)?;
        let answer = loop {
            match coming.get() {
                Some(answer) => break answer.map_err(refused("answer"))?,
                None => coming.subscribe().block(),
            }
        };
        let answer = answer.map_err(named)?;
        let (status, fields) = (answer.status(), answer.headers().entries());
        let body = answer.consume().map_err(refused("body"))?;
        let bytes = read(&body.stream().map_err(refused("stream"))?)?;
        Ok(Answer {
            status,
            fields,
            body: bytes,
            trailers: trailers(body)?,
        })
    }

    fn append_to_request() -> Answered<()> {
        let request = OutgoingRequest::new(Handle::new());
        let appended = request.headers().append("name", b"value");
        appended.map_err(of_fields)
    }
}

fn request(ask: &Ask<'_>) -> Answered<OutgoingRequest> {
    let fields = Handle::from_list(&ask.fields).map_err(of_fields)?;
    let request = OutgoingRequest::new(fields);
    let method = match ask.method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(refused("method"))?;
    let scheme = ask.scheme.map(str::to_owned);
    let scheme = scheme.map_or(Scheme::Http, Scheme::Other);
    let set = request.set_scheme(Some(&scheme));
    set.map_err(refused("scheme"))?;
    let authority = request.set_authority(Some(ask.authority));
    authority.map_err(refused("authority"))?;
    let path = request.set_path_with_query(ask.path);
    path.map_err(refused("path"))?;
    Ok(request)
}

fn write(body: &OutgoingBody, mut bytes: &[u8]) -> Answered<()> {
    if bytes.is_empty() {
        // The answer may be there already, and the stream closed.
        return Ok(());
    }
    let stream = body.write().map_err(refused("stream"))?;
    while !bytes.is_empty() {
        let room = stream.check_write().map_err(of_stream)?;
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (piece, rest) = bytes.split_at(room);
        stream.write(piece).map_err(of_stream)?;
        bytes = rest;
    }
    stream.blocking_flush().map_err(of_stream)
}

fn read(stream: &InputStream) -> Answered<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(error) => return Err(of_stream(error)),
        }
    }
}

fn trailers(body: IncomingBody) -> Answered<Pairs> {
    let coming = IncomingBody::finish(body);
    loop {
        match coming.get() {
            None => coming.subscribe().block(),
            Some(Err(())) => return Err("trailers were taken".to_owned()),
            Some(Ok(trailers)) => {
                let trailers = trailers.map_err(named)?;
                return Ok(trailers.map(|fields| fields.entries()).unwrap_or_default());
            }
        }
    }
}
