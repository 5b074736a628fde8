//! Tries what outgoing requests must do by WASI 0.3, on the server that is its argument, and prints what came of it.

use request_cases::{Answer, Answered, Ask, Client, Fields, Pairs};
use wasip3::http::client::send;
use wasip3::http::types::{
    ErrorCode, Fields as Handle, HeaderError, Method, Request, RequestOptions, Response, Scheme,
};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

struct Program;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let (mut output, text) = wit_stream::new();
        spawn_local(async move {
            let args = wasip3::cli::environment::get_arguments();
            let server = args.get(1).map(String::as_str).unwrap_or_default();
            let lines = request_cases::run::<Requests>(server).await;
            let text = lines.join("\n") + "\n";
            output.write_all(text.into_bytes()).await;
        });
        wasip3::cli::stdout::write_via_stream(text)
            .await
            .map_err(drop)
    }
}

wasip3::cli::command::export!(Program);

/// Those of WASI 0.3.
struct Requests;

struct Headers(Handle);

fn refused(what: &str) -> impl Fn(()) -> String + '_ {
    move |()| format!("{what} is refused")
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn named(code: ErrorCode) -> String {
    format!("{code:?}")
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn of_fields(error: HeaderError) -> String {
    format!("{error:?}")
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
        self.0.copy_all()
    }
}

impl Client for Requests {
    type Fields = Headers;

    async fn ask(ask: &Ask<'_>) -> Answered<Answer> {
        let request = request(ask)?;
        let response = send(request).await.map_err(named)?;
        let (status, fields) = (
            response.get_status_code(),
            response.get_headers().copy_all(),
        );
        let (done, is_done) = wit_future::new(|| Ok(()));
        drop(done);
        let (stream, trailers) = Response::consume_body(response, is_done);
        let body = stream.collect().await;
        let trailers = trailers.await.map_err(named)?;
        Ok(Answer {
            status,
            fields,
            body,
            trailers: trailers.map(|fields| fields.copy_all()).unwrap_or_default(),
        })
    }

    fn append_to_request() -> Answered<()> {
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (request, _sent) = Request::new(Handle::new(), None, trailers, None);
        let appended = request.get_headers().append("name", b"value");
        appended.map_err(of_fields)
    }
}

/// A request whose body is written meanwhile.
fn request(ask: &Ask<'_>) -> Answered<Request> {
    let fields = Handle::from_list(&ask.fields).map_err(of_fields)?;
    let options = RequestOptions::new();
    let set = options.set_first_byte_timeout(ask.patience);
    set.map_err(|error| format!("{error:?}"))?;
    let (_, trailers) = wit_future::new(|| Ok(None));
    let mut contents = None;
    if !ask.body.is_empty() {
        let (mut writer, stream) = wit_stream::new();
        let body = ask.body.to_vec();
        spawn_local(async move {
            writer.write_all(body).await;
        });
        contents = Some(stream);
    }
    let (request, _sent) = Request::new(fields, contents, trailers, Some(options));
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
