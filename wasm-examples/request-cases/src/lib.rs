//! What outgoing requests must do, whichever version of WASI sends them: [`run`] tries it all by a [`Client`], on a server that says
//! what it was sent. The program of this package does so by WASI 0.2, `async-request-cases` by 0.3.

#![allow(async_fn_in_trait, reason = "the guests have one thread")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what is expected reads better as it is"
)]

use std::fmt::Debug;

/// Fields of a head, or after a body.
pub type Pairs = Vec<(String, Vec<u8>)>;

/// What a call gives: errors by the names that they have in WASI.
pub type Answered<T> = Result<T, String>;

/// A request.
pub struct Ask<'a> {
    /// Its method.
    pub method: &'a str,
    /// Another scheme than HTTP's.
    pub scheme: Option<&'a str>,
    /// Whom it is for.
    pub authority: &'a str,
    /// What it is for.
    pub path: Option<&'a str>,
    /// Its fields.
    pub fields: Pairs,
    /// Its body.
    pub body: &'a [u8],
    /// How long to wait for the answer, in nanoseconds.
    pub patience: Option<u64>,
}

/// What came of a request.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Pairs,
    /// Its body.
    pub body: Vec<u8>,
    /// The fields after it.
    pub trailers: Pairs,
}

/// A version of WASI.
pub trait Client {
    /// Its fields.
    type Fields: Fields;
    /// Sends a request, and reads its answer to the end.
    async fn ask(ask: &Ask<'_>) -> Answered<Answer>;
    /// Adds to the fields that a request has.
    fn append_to_request() -> Answered<()>;
}

/// A version's `fields`.
pub trait Fields: Sized {
    /// Empty ones.
    fn empty() -> Self;
    /// A copy.
    #[must_use]
    fn copy(&self) -> Self;
    /// Adds a value.
    fn append(&self, name: &str, value: &[u8]) -> Answered<()>;
    /// Sets the only value.
    fn set(&self, name: &str, value: &[u8]) -> Answered<()>;
    /// Removes all values.
    fn delete(&self, name: &str) -> Answered<()>;
    /// All values.
    fn get(&self, name: &str) -> Vec<Vec<u8>>;
    /// Whether there is any.
    fn has(&self, name: &str) -> bool;
    /// All that there is.
    fn all(&self) -> Pairs;
}

impl<'a> Ask<'a> {
    fn get(authority: &'a str, path: &'a str) -> Self {
        Self {
            method: "GET",
            scheme: None,
            authority,
            path: Some(path),
            fields: Vec::new(),
            body: &[],
            patience: None,
        }
    }

    fn post(authority: &'a str, path: &'a str, body: &'a [u8]) -> Self {
        Self {
            method: "POST",
            body,
            ..Self::get(authority, path)
        }
    }
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Tries everything on that server. Gives a line for each case: its name and `ok`, or what went wrong.
pub async fn run<C: Client>(server: &str) -> Vec<String> {
    let results = [
        ("get", get::<C>(server).await),
        ("no path", no_path::<C>(server).await),
        ("methods", methods::<C>(server).await),
        ("post", post::<C>(server).await),
        ("large post", large_post::<C>(server).await),
        ("head", head::<C>(server).await),
        ("status and fields", status_and_fields::<C>(server).await),
        ("trailers", trailers::<C>(server).await),
        ("content length", content_length::<C>(server).await),
        ("fields", fields::<C::Fields>()),
        (
            "a request's fields",
            fails("adding", C::append_to_request(), "Immutable"),
        ),
        ("unreachable", unreachable::<C>().await),
        ("another protocol", another_protocol::<C>(server).await),
        ("invalid parts", invalid_parts::<C>(server).await),
        ("patience", patience::<C>(server).await),
        ("cut off", cut_off::<C>(server).await),
    ];
    let line = |(name, result): (&str, Answered<()>)| match result {
        Ok(()) => format!("{name}: ok"),
        Err(error) => format!("{name}: {error}"),
    };
    results.map(line).into()
}

fn expect<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Answered<()> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what} is {is:?}, not {should:?}"))
    }
}

/// It must fail with that error, or with any if that is empty.
fn fails<T: Debug>(what: &str, result: Answered<T>, code: &str) -> Answered<()> {
    match result {
        Ok(answer) => Err(format!("{what} succeeds: {answer:?}")),
        Err(error) if error.contains(code) => Ok(()),
        Err(error) => Err(format!("{what}: {error}, not {code}")),
    }
}

async fn get<C: Client>(server: &str) -> Answered<()> {
    let answer = C::ask(&Ask::get(server, "/some/path?and=query")).await?;
    expect("status", answer.status, 200)?;
    let text = "GET /some/path?and=query 0";
    expect("text", answer.text().as_str(), text)
}

/// With an empty path, the root is meant. With none, the versions differ in what is.
async fn no_path<C: Client>(server: &str) -> Answered<()> {
    let answer = C::ask(&Ask::get(server, "")).await?;
    expect("text", answer.text().as_str(), "GET / 0")?;
    let mut none = Ask::get(server, "");
    none.path = None;
    match C::ask(&none).await {
        Ok(answer) => expect("text", answer.text().as_str(), "GET / 0"),
        refused => fails("none", refused, "Http"),
    }
}

async fn methods<C: Client>(server: &str) -> Answered<()> {
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let mut other = Ask::get(server, "/");
        other.method = method;
        let answer = C::ask(&other).await?;
        expect("text", answer.text(), format!("{method} / 0"))?;
    }
    let mut nonsense = Ask::get(server, "/");
    nonsense.method = "NO METHOD";
    let answer = C::ask(&nonsense).await;
    fails("a method with a space", answer, "method is refused")
}

async fn post<C: Client>(server: &str) -> Answered<()> {
    let answer = C::ask(&Ask::post(server, "/echo", b"as it was sent")).await?;
    expect("text", answer.text().as_str(), "as it was sent")
}

async fn large_post<C: Client>(server: &str) -> Answered<()> {
    let body = vec![b'x'; 3 << 20];
    let answer = C::ask(&Ask::post(server, "/length", &body)).await?;
    let text = format!("POST /length {}", body.len());
    expect("text", answer.text(), text)?;
    let answer = C::ask(&Ask::post(server, "/echo", &body)).await?;
    expect("as it was", answer.body == body, true)
}

async fn head<C: Client>(server: &str) -> Answered<()> {
    let mut head = Ask::get(server, "/");
    head.method = "HEAD";
    let answer = C::ask(&head).await?;
    expect(
        "status and length",
        (answer.status, answer.body.len()),
        (200, 0),
    )
}

async fn status_and_fields<C: Client>(server: &str) -> Answered<()> {
    let mut teapot = Ask::get(server, "/teapot");
    teapot.fields.push(("x-sent".to_owned(), b"one".to_vec()));
    teapot.fields.push(("x-sent".to_owned(), b"two".to_vec()));
    let answer = C::ask(&teapot).await?;
    expect("status", answer.status, 418)?;
    let told = answer.fields.iter().filter(|(name, _)| name == "x-told");
    let told: Vec<_> = told.map(|(_, value)| value.clone()).collect();
    expect("fields", told, vec![b"one".to_vec(), b"two".to_vec()])
}

async fn trailers<C: Client>(server: &str) -> Answered<()> {
    let mut request = Ask::get(server, "/trailers");
    // Without that word, a server may leave them out.
    request.fields.push(("te".to_owned(), b"trailers".to_vec()));
    let answer = C::ask(&request).await?;
    expect("text", answer.text().as_str(), "before")?;
    let trailers = vec![("x-after".to_owned(), b"all".to_vec())];
    expect("trailers", answer.trailers, trailers)
}

/// What was promised must be kept.
async fn content_length<C: Client>(server: &str) -> Answered<()> {
    let with_length = |body| {
        let mut post = Ask::post(server, "/echo", body);
        post.fields
            .push(("content-length".to_owned(), b"4".to_vec()));
        post
    };
    let answer = C::ask(&with_length(b"four")).await?;
    expect("text", answer.text().as_str(), "four")?;
    fails("too short", C::ask(&with_length(b"two")).await, "")?;
    fails("too long", C::ask(&with_length(b"fiver")).await, "")
}

fn fields<F: Fields>() -> Answered<()> {
    let fields = F::empty();
    for name in ["", "with space", "with:colon", "with\nline"] {
        fails(name, fields.append(name, b"value"), "InvalidSyntax")?;
    }
    fails("a line", fields.append("name", b"a\nline"), "InvalidSyntax")?;
    for name in [
        "connection",
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "host",
    ] {
        fails(name, fields.append(name, b"value"), "Forbidden")?;
    }
    fields.append("Name", b"one")?;
    fields.append("name", b"two")?;
    let both = vec![b"one".to_vec(), b"two".to_vec()];
    expect("both", fields.get("NAME"), both)?;
    expect("there", (fields.has("name"), fields.all().len()), (true, 2))?;
    let copy = fields.copy();
    fields.set("name", b"three")?;
    expect("the other", fields.get("name"), vec![b"three".to_vec()])?;
    fields.delete("name")?;
    expect("gone", (fields.has("name"), fields.all().len()), (false, 0))?;
    expect("the copy", copy.get("name").len(), 2)
}

async fn unreachable<C: Client>() -> Answered<()> {
    let nobody = C::ask(&Ask::get("no-such-name", "/")).await;
    fails("no such name", nobody, "DnsError")?;
    let nobody = C::ask(&Ask::get("localhost:9", "/")).await;
    fails("nobody there", nobody, "ConnectionRefused")
}

async fn another_protocol<C: Client>(server: &str) -> Answered<()> {
    let mut other = Ask::get(server, "/");
    other.scheme = Some("WS");
    fails("it", C::ask(&other).await, "HttpProtocolError")
}

async fn invalid_parts<C: Client>(server: &str) -> Answered<()> {
    for authority in ["localhost:port", "localhost:99999"] {
        // When that is found out is not the same in all versions.
        match C::ask(&Ask::get(authority, "/")).await {
            Err(error) if error == "authority is refused" => {}
            answer => fails(authority, answer, "UriInvalid")?,
        }
    }
    let answer = C::ask(&Ask::get("with space", "/")).await;
    fails("an authority", answer, "authority is refused")?;
    let answer = C::ask(&Ask::get(server, "/with space")).await;
    fails("a path", answer, "path is refused")
}

async fn patience<C: Client>(server: &str) -> Answered<()> {
    let mut patient = Ask::get(server, "/never");
    patient.patience = Some(20_000_000);
    fails("no answer", C::ask(&patient).await, "ConnectionReadTimeout")
}

async fn cut_off<C: Client>(server: &str) -> Answered<()> {
    fails("it", C::ask(&Ask::get(server, "/cut")).await, "")
}
