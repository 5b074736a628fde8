//! What a proxy does to headers: leaves out those that concern one connection only, and says who the client is.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::Client;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that concern one connection, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether `Connection` names this option.
fn connection_names(headers: &HeaderMap, option: &str) -> bool {
    options(headers).any(|named| named.eq_ignore_ascii_case(option))
}

fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The protocol that the sender wants to change to, if it does.
pub(super) fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE)?;
    (version == Version::HTTP_11 && connection_names(headers, "upgrade")).then(|| wanted.clone())
}

/// Takes out whatever concerns one connection only, and puts `upgrade` in its place.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let trailers = headers
        .get_all(TE)
        .into_iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if headers.contains_key(TRANSFER_ENCODING) {
        // The library has read the body by the former; whatever the latter said must not go on.
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = options(headers)
        .filter_map(|name| name.parse().ok())
        // What routing and framing rest on is not the sender's to take out.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Says who the client is and what it asked for. What the request says about that itself counts only if whoever sent it
/// is trusted.
pub(super) fn say_who(headers: &mut HeaderMap, client: &Client, host: &HeaderValue, trusted: bool) {
    let ip = client.peer.ip();
    if !trusted {
        for name in [
            FORWARDED,
            FORWARDED_FOR,
            FORWARDED_HOST,
            FORWARDED_PORT,
            FORWARDED_PROTO,
            REAL_IP,
        ] {
            headers.remove(name);
        }
    }
    let way: Vec<_> = headers
        .get_all(FORWARDED_FOR)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .chain([ip.to_string()])
        .collect();
    set(headers, FORWARDED_FOR, way.join(", "));
    let first = way.first().and_then(|way| way.split(',').next());
    let real = first
        .and_then(|first| first.trim().parse::<IpAddr>().ok())
        .unwrap_or(ip);
    if !headers.contains_key(REAL_IP) {
        set(headers, REAL_IP, real.to_string());
    }
    if !headers.contains_key(FORWARDED_HOST) {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        let scheme = if client.secure { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !headers.contains_key(FORWARDED_PORT) {
        set(headers, FORWARDED_PORT, client.local.port().to_string());
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Makes the head of a request fit the connection to the backend.
pub(super) fn for_backend(headers: &mut HeaderMap, host: HeaderValue) {
    headers.insert(HOST, host);
    // Answered by this end already.
    headers.remove(EXPECT);
    // HTTP/2 may send a cookie in pieces, HTTP/1.1 may not.
    let crumbs: Vec<_> = headers.get_all(COOKIE).into_iter().cloned().collect();
    if crumbs.len() > 1 {
        let crumbs: Vec<_> = crumbs.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in all.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
        headers
            .get(name)
            .map_or("-", |value| value.to_str().unwrap())
    }

    fn client() -> Client {
        Client {
            peer: "192.0.2.7:5000".parse().unwrap(),
            local: "127.0.0.1:8443".parse().unwrap(),
            secure: true,
        }
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Secret, host, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("proxy-authorization", "x"),
            ("host", "a.example"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers, None);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "te"]);
    }

    #[test]
    fn a_length_beside_chunks_goes_no_further() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        strip_hop_by_hop(&mut headers, None);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn upgrades_are_asked_for_in_two_headers() {
        let asked = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        let protocol = upgrade(&asked, Version::HTTP_11).unwrap();
        assert_eq!(protocol, "websocket");
        assert!(upgrade(&asked, Version::HTTP_2).is_none());
        assert!(upgrade(&map(&[("upgrade", "h2c")]), Version::HTTP_11).is_none());
        let mut headers = asked;
        strip_hop_by_hop(&mut headers, Some(protocol));
        assert_eq!(text(&headers, "connection"), "upgrade");
        assert_eq!(text(&headers, "upgrade"), "websocket");
    }

    #[test]
    fn strangers_are_not_believed() {
        let claims = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-proto", "ftp"),
            ("forwarded", "for=203.0.113.1"),
        ];
        let host = HeaderValue::from_static("a.example:8443");
        let mut headers = map(&claims);
        say_who(&mut headers, &client(), &host, false);
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-real-ip", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example:8443"),
            ("x-forwarded-port", "8443"),
            ("forwarded", "-"),
        ] {
            assert_eq!(text(&headers, name), value, "{name}");
        }
        let mut headers = map(&claims);
        say_who(&mut headers, &client(), &host, true);
        assert_eq!(text(&headers, "x-forwarded-for"), "203.0.113.1, 192.0.2.7");
        assert_eq!(text(&headers, "x-real-ip"), "203.0.113.1");
        assert_eq!(text(&headers, "x-forwarded-proto"), "ftp");
    }

    #[test]
    fn cookies_are_made_whole() {
        let mut headers = map(&[
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("expect", "100-continue"),
        ]);
        for_backend(&mut headers, HeaderValue::from_static("a.example"));
        assert_eq!(text(&headers, "cookie"), "a=1; b=2");
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
        assert_eq!(text(&headers, "expect"), "-");
    }
}
