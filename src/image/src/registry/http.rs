//! Reading from a registry: the requests of the OCI distribution specification that bring something in.
//!
//! Whoever answers is not trusted. Documents, tokens and what is said about failures are read piece by piece, and no further than
//! they may be long; blobs are handed on as they come. Passwords go to nobody over a plain connection who does not have the registry's
//! own.

use std::{
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE},
};
use oci_distribution::secrets::RegistryAuth;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;

use super::challenge::Challenge;

/// The longest token, and the most that is read of what a registry says about a failure, in bytes.
const MOST_TOKEN: u64 = 64 << 10;
const MOST_REASON: u64 = 16 << 10;
/// How much of a reason is repeated.
const SHOWN: usize = 500;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// It takes other credentials.
    #[error("{0}")]
    Refused(String),
    /// It is longer than it may be.
    #[error("{size} bytes are more than the {limit} that are taken")]
    TooLarge {
        /// How long it says it is, or how much of it has come.
        size: u64,
        /// How long it may be.
        limit: u64,
    },
    /// The registry answered with something else.
    #[error("{0}")]
    Answer(String),
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] reqwest::Error),
}

/// A repository of a registry, as somebody sees it.
pub(super) struct Repository {
    client: Client,
    /// `https://host:port/v2/`
    root: Url,
    name: String,
    /// Whose images it has, if they are not its own.
    mirrored: Option<String>,
    who: RegistryAuth,
    /// What has satisfied the registry.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A blob that comes in.
pub(super) struct Incoming {
    /// Whether it begins where it was asked to begin, and not at its start.
    pub(super) is_rest: bool,
    response: Response,
}

impl Incoming {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, ReadError> {
        Ok(self.response.chunk().await?)
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// What registries say about failures.
#[derive(Deserialize)]
struct Failures {
    errors: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Repository {
    pub(super) fn new(
        client: Client,
        root: Url,
        (name, mirrored): (String, Option<String>),
        who: RegistryAuth,
    ) -> Self {
        Self {
            client,
            root,
            name,
            mirrored,
            who,
            authorization: Mutex::default(),
        }
    }

    /// A manifest or index, by tag or digest.
    pub(super) async fn manifest(
        &self,
        reference: &str,
        accepted: &[&str],
        limit: u64,
    ) -> Result<Vec<u8>, ReadError> {
        let mut headers = HeaderMap::new();
        for media_type in accepted {
            if let Ok(value) = HeaderValue::try_from(*media_type) {
                headers.append(ACCEPT, value);
            }
        }
        let path = format!("manifests/{reference}");
        bounded(self.get(&path, headers).await?, limit).await
    }

    /// What refers to a manifest.
    pub(super) async fn referrers(&self, digest: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        let path = format!("referrers/{digest}");
        bounded(self.get(&path, HeaderMap::new()).await?, limit).await
    }

    /// A blob from a byte on, or whole if the registry gives no parts.
    pub(super) async fn blob(&self, digest: &str, from: u64) -> Result<Incoming, ReadError> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(&format!("blobs/{digest}"), headers).await?;
        let is_rest = response.status() == StatusCode::PARTIAL_CONTENT;
        let begins = response.headers().get(CONTENT_RANGE);
        let begins = begins.and_then(|range| range.to_str().ok());
        if is_rest && !begins.is_some_and(|range| range.starts_with(&format!("bytes {from}-"))) {
            let message = "the registry sent another part than was asked for";
            return Err(ReadError::Answer(message.to_owned()));
        }
        Ok(Incoming { is_rest, response })
    }

    /// An answer that is a success. Who we are is said when the registry asks for it, and from then on at once.
    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response, ReadError> {
        let url = self.root.join(&format!("{}/{path}", self.name));
        let mut url = url.map_err(|error| ReadError::Answer(error.to_string()))?;
        if let Some(registry) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let known = self.known().clone();
        let response = self.send(url.clone(), &headers, known.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return success(response).await;
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = challenges.filter_map(|value| value.to_str().ok());
        let challenge = challenges.find_map(Challenge::parse);
        let answer = match challenge {
            Some(challenge) => self.answer(&challenge).await?,
            None => None,
        };
        // What is the same would be refused again.
        let Some(answer) = answer.filter(|answer| Some(answer) != known.as_ref()) else {
            return success(response).await;
        };
        let response = self.send(url, &headers, Some(answer.clone())).await?;
        if response.status().is_success() {
            *self.known() = Some(answer);
        }
        success(response).await
    }

    fn known(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        let known = self.authorization.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        url: Url,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.client.get(url).headers(headers.clone());
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await
    }

    /// What to say when the registry asks who we are; `None`: nothing.
    async fn answer(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, ReadError> {
        match (challenge, &self.who) {
            (Challenge::Basic, RegistryAuth::Bearer(token)) => {
                secret(&format!("Bearer {token}")).map(Some)
            }
            (Challenge::Basic, RegistryAuth::Basic(name, password)) => {
                basic(name, password).map(Some)
            }
            (Challenge::Basic, RegistryAuth::Anonymous) => Ok(None),
            (Challenge::Bearer { realm, service }, who) => {
                let token = self.token(realm, service.as_deref(), who).await?;
                secret(&format!("Bearer {token}")).map(Some)
            }
        }
    }

    /// A token for reading, from where the registry says that there are some.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        who: &RegistryAuth,
    ) -> Result<String, ReadError> {
        let nonsense =
            |what: &str| ReadError::Answer(format!("the registry's {what} makes no sense"));
        let mut url = Url::parse(realm).map_err(|_| nonsense("realm"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(nonsense("realm"));
        }
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{}:pull", self.name))
            .extend_pairs(service.map(|service| ("service", service)));
        if url.scheme() != "https"
            && self.root.scheme() == "https"
            && *who != RegistryAuth::Anonymous
        {
            let message = "the registry wants what is secret over a plain connection";
            return Err(ReadError::Refused(message.to_owned()));
        }
        let request = match who {
            RegistryAuth::Anonymous => self.client.get(url),
            RegistryAuth::Basic(name, password) => {
                let request = self.client.get(url);
                request.header(AUTHORIZATION, basic(name, password)?)
            }
            RegistryAuth::Bearer(identity) => self.exchange(url, identity),
        };
        let response = success(request.send().await?).await?;
        let bytes = bounded(response, MOST_TOKEN).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| nonsense("token"))?;
        let token = token.token.or(token.access_token);
        token.ok_or_else(|| nonsense("token"))
    }
}

impl Repository {
    /// A request for a token in exchange for one that says who somebody is.
    fn exchange(&self, mut url: Url, identity: &str) -> RequestBuilder {
        url.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", identity)
            .append_pair("client_id", "vaquita");
        // What is secret is no part of an address.
        let form = url.query().unwrap_or_default().to_owned();
        url.set_query(None);
        self.client
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
    }
}

fn basic(name: &str, password: &str) -> Result<HeaderValue, ReadError> {
    secret(&format!(
        "Basic {}",
        STANDARD.encode(format!("{name}:{password}"))
    ))
}

fn secret(text: &str) -> Result<HeaderValue, ReadError> {
    let value = HeaderValue::try_from(text);
    let mut value = value.map_err(|_| ReadError::Answer("no such token can be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A body of at most so many bytes.
async fn bounded(mut response: Response, limit: u64) -> Result<Vec<u8>, ReadError> {
    if let Some(size) = response.content_length().filter(|size| *size > limit) {
        return Err(ReadError::TooLarge { size, limit });
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        let size = bytes.len() as u64;
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
    }
    Ok(bytes)
}

/// The answer, or what it says about why it is none.
async fn success(response: Response) -> Result<Response, ReadError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = bounded(response, MOST_REASON).await.unwrap_or_default();
    let failures: Vec<Failure> =
        serde_json::from_slice::<Failures>(&body).map_or(Vec::new(), |said| said.errors);
    let says = |codes: &[&str]| {
        let mut said = failures.iter();
        said.any(|failure| codes.contains(&failure.code.as_str()))
    };
    if status == StatusCode::NOT_FOUND || says(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"]) {
        return Err(ReadError::NotFound);
    }
    let reason = reason(status, &failures);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ReadError::Refused(reason)),
        _ if says(&["UNAUTHORIZED", "DENIED"]) => Err(ReadError::Refused(reason)),
        _ => Err(ReadError::Answer(reason)),
    }
}

/// What a registry says about a failure, in a line.
fn reason(status: StatusCode, failures: &[Failure]) -> String {
    let mut text = status.to_string();
    for failure in failures {
        let message = failure.message.as_deref().unwrap_or(&failure.code);
        // Writing to a string cannot fail.
        let _ = write!(text, ": {message}");
    }
    let shown = text.chars().take(SHOWN);
    shown
        .map(|it| if it.is_control() { ' ' } else { it })
        .collect()
}
