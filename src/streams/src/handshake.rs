//! The head of a request that wants streams, and the head of its answer.
//!
//! [`exec`] (for attach too) and [`port_forward`] look at what the client offers and choose the protocol, as a kubelet
//! does; the answer then goes out, and the upgraded connection becomes a session of that protocol. [`upgrade`] alone
//! says whether an upgrade is wanted, for those who pass it on.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::websocket::channels::Form;

/// Names the protocols that a SPDY client, or its server, can speak within the streams.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// What a server that can speak none of them could.
const ACCEPTED: &str = "x-accepted-stream-protocol-versions";
/// The protocols of exec and attach over SPDY.
const EXEC_SPDY: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// The same over WebSocket.
const EXEC_WEBSOCKET: [&str; 7] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// The protocol of port-forward over SPDY.
const FORWARD_SPDY: &str = "portforward.k8s.io";
/// The same within a WebSocket.
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Port-forward over numbered channels.
const FORWARD_WEBSOCKET: [&str; 3] = [
    FORWARD_TUNNEL,
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
];

/// What kind of connection a request wants to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// `Upgrade: SPDY/3.1`.
    Spdy,
    /// `Upgrade: websocket`.
    WebSocket,
    /// Something else.
    Other,
}

/// Which upgrade the client asks for, if it does.
pub fn upgrade(headers: &HeaderMap) -> Option<Upgrade> {
    let asks = list(headers, header::CONNECTION.as_str())
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE)?.to_str().ok()?;
    asks.then(|| match protocol.to_ascii_lowercase().as_str() {
        "spdy/3.1" => Upgrade::Spdy,
        "websocket" => Upgrade::WebSocket,
        _ => Upgrade::Other,
    })
}

/// Why no protocol could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request wants no upgrade, or none that is known here.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    /// The client does not say what it speaks.
    #[error("unable to upgrade: {STREAM_PROTOCOL} is required")]
    Unsaid,
    /// The WebSocket handshake is not one.
    #[error("unable to upgrade: {0}")]
    BadHandshake(&'static str),
    /// The client speaks nothing that is spoken here.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        client.join(" "), server.join(" ")
    )]
    NoProtocol {
        /// What the client offers.
        client: Vec<String>,
        /// What it could have offered.
        server: &'static [&'static str],
    },
}

impl Refused {
    /// The answer to the client: a line of text, as a kubelet answers.
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{self}\n"));
        *response.status_mut() = match self {
            Self::NoProtocol { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        if let Self::NoProtocol { server, .. } = self {
            for protocol in *server {
                let value = HeaderValue::from_static(protocol);
                response.headers_mut().append(ACCEPTED, value);
            }
        }
        response
    }
}

/// What carries the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Spdy,
    /// SPDY within a WebSocket.
    Tunnel,
    Channels(Form),
}

/// How a result is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Results {
    /// Version 4 and later: a `Status` in JSON, be it a success.
    Status,
    /// Before: the text of an error, or nothing.
    Text,
}

/// The protocol that was chosen.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub(crate) carrier: Carrier,
    pub(crate) results: Results,
    /// Whether SPDY clients open a stream for the size of their terminal.
    pub(crate) resizes: bool,
    response: Response<()>,
}

impl Accepted {
    /// The head of the answer, 101. After it has been sent, the connection is the session's.
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.response.status();
        *response.headers_mut() = self.response.headers().clone();
        response
    }
}

/// Chooses the protocol for exec or attach.
pub fn exec(headers: &HeaderMap) -> Result<Accepted, Refused> {
    match upgrade(headers) {
        Some(Upgrade::Spdy) => {
            let protocol = spdy_protocol(headers, &EXEC_SPDY)?;
            Ok(Accepted {
                carrier: Carrier::Spdy,
                results: results(protocol),
                resizes: matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io"),
                response: spdy_response(protocol),
            })
        }
        Some(Upgrade::WebSocket) => {
            let protocol = websocket_protocol(headers, &EXEC_WEBSOCKET)?;
            Ok(Accepted {
                carrier: Carrier::Channels(form(protocol)),
                results: protocol.map_or(Results::Text, results),
                resizes: true,
                response: websocket_response(headers, protocol)?,
            })
        }
        _ => Err(Refused::NotAnUpgrade),
    }
}

/// Chooses the protocol for port-forward.
pub fn port_forward(headers: &HeaderMap) -> Result<Accepted, Refused> {
    let (carrier, response) = match upgrade(headers) {
        Some(Upgrade::Spdy) => {
            let protocol = spdy_protocol(headers, &[FORWARD_SPDY])?;
            (Carrier::Spdy, spdy_response(protocol))
        }
        Some(Upgrade::WebSocket) => {
            let protocol = websocket_protocol(headers, &FORWARD_WEBSOCKET)?;
            let carrier = match protocol {
                Some(FORWARD_TUNNEL) => Carrier::Tunnel,
                protocol => Carrier::Channels(form(protocol)),
            };
            (carrier, websocket_response(headers, protocol)?)
        }
        _ => return Err(Refused::NotAnUpgrade),
    };
    Ok(Accepted {
        carrier,
        results: Results::Text,
        resizes: false,
        response,
    })
}

fn form(protocol: Option<&str>) -> Form {
    Form {
        base64: protocol.is_some_and(|protocol| protocol.contains("base64")),
        half_close: protocol == Some("v5.channel.k8s.io"),
    }
}

fn results(protocol: &str) -> Results {
    if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
        Results::Status
    } else {
        Results::Text
    }
}

/// The first protocol of the client's that is one of `known`.
fn choose(client: &[String], known: &'static [&'static str]) -> Result<&'static str, Refused> {
    let found = client
        .iter()
        .find_map(|offered| known.iter().find(|known| *known == offered));
    found.copied().ok_or_else(|| Refused::NoProtocol {
        client: client.to_vec(),
        server: known,
    })
}

fn spdy_protocol(
    headers: &HeaderMap,
    known: &'static [&'static str],
) -> Result<&'static str, Refused> {
    let offered: Vec<String> = list(headers, STREAM_PROTOCOL).map(str::to_owned).collect();
    if offered.is_empty() {
        return Err(Refused::Unsaid);
    }
    choose(&offered, known)
}

/// `None` if the client names no protocol: then it is the oldest.
fn websocket_protocol(
    headers: &HeaderMap,
    known: &'static [&'static str],
) -> Result<Option<&'static str>, Refused> {
    let name = header::SEC_WEBSOCKET_PROTOCOL.as_str();
    let offered: Vec<String> = list(headers, name).map(str::to_owned).collect();
    if offered.is_empty() {
        return Ok(None);
    }
    choose(&offered, known).map(Some)
}

fn spdy_response(protocol: &'static str) -> Response<()> {
    let mut response = switching("SPDY/3.1");
    let value = HeaderValue::from_static(protocol);
    response.headers_mut().insert(STREAM_PROTOCOL, value);
    response
}

fn websocket_response(
    headers: &HeaderMap,
    protocol: Option<&'static str>,
) -> Result<Response<()>, Refused> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(Refused::BadHandshake("Sec-WebSocket-Version must be 13"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(Refused::BadHandshake("Sec-WebSocket-Key is required"))?;
    let proof = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| Refused::BadHandshake("Sec-WebSocket-Key is malformed"))?;
    let mut response = switching("websocket");
    let answer = response.headers_mut();
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_static(protocol);
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(response)
}

fn switching(protocol: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The elements of all headers named `name`, split at commas.
fn list<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn spdy_takes_the_first_protocol_that_both_speak() {
        let head = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            (
                "x-stream-protocol-version",
                "v4.channel.k8s.io, v3.channel.k8s.io",
            ),
        ]);
        let accepted = exec(&head).unwrap();
        let answer = accepted.response();
        assert_eq!(answer.status(), 101);
        assert_eq!(
            answer.headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
        assert_eq!(
            (accepted.carrier, accepted.results),
            (Carrier::Spdy, Results::Status)
        );
        let refused = port_forward(&head).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "unable to upgrade: unable to negotiate protocol: client supports [v5.channel.k8s.io v4.channel.k8s.io \
             v3.channel.k8s.io], server accepts [portforward.k8s.io]"
        );
        assert_eq!(refused.response().status(), 403);
    }

    #[test]
    fn websocket_proves_that_it_read_the_key() {
        let mut head = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            (
                "sec-websocket-protocol",
                "v6.channel.k8s.io, v5.channel.k8s.io",
            ),
        ]);
        let answer = exec(&head).unwrap().response();
        // The example of RFC 6455, section 1.3.
        assert_eq!(
            answer.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(
            answer.headers()["sec-websocket-protocol"],
            "v5.channel.k8s.io"
        );
        head.remove("sec-websocket-protocol");
        let accepted = exec(&head).unwrap();
        assert!(
            !accepted
                .response()
                .headers()
                .contains_key("sec-websocket-protocol")
        );
        assert_eq!(accepted.results, Results::Text);
        head.remove("sec-websocket-key");
        assert!(matches!(exec(&head), Err(Refused::BadHandshake(_))));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(exec(&HeaderMap::new()).unwrap_err(), Refused::NotAnUpgrade);
        let other = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(upgrade(&other), Some(Upgrade::Other));
        assert_eq!(port_forward(&other).unwrap_err(), Refused::NotAnUpgrade);
        let bare = headers(&[("upgrade", "websocket")]);
        assert_eq!(upgrade(&bare), None);
    }
}
