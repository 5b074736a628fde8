//! HTTP requests of probes and hooks: one GET, over TLS if the manifest wants that, and what it is redirected to on the same
//! host.

use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use super::{LONGEST_BODY, Outcome};
use vaquita_backends::{Connection, Sandbox, with_causes};

/// How many redirects are followed: upstream's.
const REDIRECTS: usize = 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// Whether it is asked over TLS, whatever the certificate.
    pub(super) is_secure: bool,
    /// Whom to ask, if not the pod itself.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    /// With a query, if there is one.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

impl Get {
    /// As messages show it.
    pub(super) fn url(&self, pod: IpAddr) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(pod), self.path)
    }

    fn authority(&self, pod: IpAddr) -> String {
        let host = self.host(pod);
        if host.contains(':') {
            format!("[{host}]:{}", self.port)
        } else {
            format!("{host}:{}", self.port)
        }
    }

    fn host(&self, pod: IpAddr) -> String {
        self.host.clone().unwrap_or_else(|| pod.to_string())
    }

    /// Asks, and follows where the answers lead on the same host.
    pub(super) async fn attempt(&self, sandbox: &dyn Sandbox) -> Outcome {
        let pod = sandbox.ip();
        let mut next = self.clone();
        for _ in 0..=REDIRECTS {
            let answer = match next.once(sandbox).await {
                Ok(answer) => answer,
                Err(error) => {
                    let why = with_causes(&*error);
                    return Outcome::Failure(format!("Get \"{}\": {why}", next.url(pod)));
                }
            };
            let status = answer.status.as_u16();
            let target = answer
                .location
                .filter(|_| matches!(status, 301..=303 | 307 | 308));
            match (status, target) {
                (_, Some(location)) => match next.redirected(&location, pod) {
                    Some(target) => next = target,
                    // Another host is not the pod's, and says nothing about it.
                    None => {
                        return Outcome::Warning(format!(
                            "Probe terminated redirects, Response body: {}",
                            answer.body
                        ));
                    }
                },
                (200..400, None) => return Outcome::Success,
                (_, None) => {
                    return Outcome::Failure(format!(
                        "HTTP probe failed with statuscode: {status}"
                    ));
                }
            }
        }
        Outcome::Failure(format!(
            "Get \"{}\": stopped after {REDIRECTS} redirects",
            next.url(pod)
        ))
    }

    /// Where a redirect leads; `None` if that is on another host, or nowhere.
    fn redirected(&self, location: &str, pod: IpAddr) -> Option<Self> {
        let mut target = self.clone();
        let location = location.split('#').next().unwrap_or_default();
        let whole = match location.strip_prefix("//") {
            Some(rest) if self.is_secure => Some(format!("https://{rest}")),
            Some(rest) => Some(format!("http://{rest}")),
            None if location.contains("://") => Some(location.to_owned()),
            None => None,
        };
        if let Some(whole) = whole {
            let uri: Uri = whole.parse().ok()?;
            let host = uri.host()?.trim_matches(['[', ']']);
            if !host.eq_ignore_ascii_case(&self.host(pod)) {
                return None;
            }
            target.is_secure = match uri.scheme_str() {
                Some("http") => false,
                Some("https") => true,
                _ => return None,
            };
            let usual = if target.is_secure { 443 } else { 80 };
            target.port = uri.port_u16().unwrap_or(usual);
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            path.clone_into(&mut target.path);
            return Some(target);
        }
        let before = self.path.split('?').next().unwrap_or_default();
        target.path = match location {
            "" => return None,
            path if path.starts_with('/') => path.to_owned(),
            query if query.starts_with('?') => format!("{before}{query}"),
            name => {
                let directory = before
                    .rsplit_once('/')
                    .map_or("", |(directory, _)| directory);
                format!("{directory}/{name}")
            }
        };
        target.path.parse::<Uri>().is_ok().then_some(target)
    }

    async fn once(&self, sandbox: &dyn Sandbox) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let pod = sandbox.ip();
        let stream = match &self.host {
            None => sandbox.dial(self.port).await?,
            Some(host) => sandbox.dial_host(host, self.port).await?,
        };
        let stream: Box<dyn Connection> = if self.is_secure {
            let name = ServerName::try_from(self.host(pod))?;
            Box::new(
                TlsConnector::from(TLS.clone())
                    .connect(name, stream)
                    .await?,
            )
        } else {
            stream
        };
        let request = self.request(pod)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            // The server sees its answer through; what is longer, or breaks off, is left.
            let body = Limited::new(body, LONGEST_BODY).collect().await;
            let body = body.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
            let location = head.headers.get(header::LOCATION);
            Ok(Answer {
                status: head.status,
                location: location.and_then(|text| Some(text.to_str().ok()?.to_owned())),
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // It ends when the answer is complete, or because of an error that the exchange has, too.
            _ = connection => exchange.await,
        }
    }

    fn request(&self, pod: IpAddr) -> http::Result<Request<Empty<Bytes>>> {
        let mut request = Request::get(&self.path)
            .header(header::HOST, self.authority(pod))
            .header(header::USER_AGENT, "kube-probe/1.36")
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())?;
        for name in self.headers.keys() {
            // The manifest's words replace ours.
            request.headers_mut().remove(name);
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        Ok(request)
    }
}

/// What came back.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

/// TLS with whoever answers: as upstream has it, a probe asks whether something works, not who it is.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Anybody(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for all versions");
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
});

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host() {
        let pod = IpAddr::from([10, 244, 0, 2]);
        let get = Get {
            is_secure: false,
            host: None,
            port: 8080,
            path: "/a/b?x=1".to_owned(),
            headers: HeaderMap::new(),
        };
        for (location, expected) in [
            ("/c", "http://10.244.0.2:8080/c"),
            ("c?d", "http://10.244.0.2:8080/a/c?d"),
            ("?d#e", "http://10.244.0.2:8080/a/b?d"),
            ("https://10.244.0.2/c", "https://10.244.0.2:443/c"),
            ("//10.244.0.2:81", "http://10.244.0.2:81/"),
        ] {
            let target = get.redirected(location, pod).unwrap();
            assert_eq!(target.url(pod), expected, "{location}");
        }
        for location in ["", "#x", "http://example.com/", "ftp://10.244.0.2/", "/a b"] {
            assert_eq!(get.redirected(location, pod), None, "{location}");
        }
    }

    #[test]
    fn addresses_of_the_newer_kind_have_brackets() {
        let get = Get {
            is_secure: true,
            host: Some("::1".to_owned()),
            port: 1,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
        };
        assert_eq!(get.url([10, 0, 0, 1].into()), "https://[::1]:1/");
    }
}
