//! The heads of proxied requests and answers.

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts, uri::PathAndQuery};

use super::super::connect::without_tokens;
use crate::serve::Peer;

/// Headers that are about one connection, not about what is said over it (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers by which a client proves to us who it is.
const CREDENTIALS: [&str; 1] = ["authorization"];
/// Headers by which a client speaks for somebody else to us begin like this.
const IMPERSONATE: &str = "impersonate-";

/// The request's address, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outside {
    /// Up to and including `/proxy`, still escaped.
    pub(super) prefix: String,
    /// What follows, with its leading slash, or nothing.
    pub(super) path: String,
    host: Option<String>,
}

impl Outside {
    /// Takes the path of a request for a `proxy` apart.
    pub(super) fn of(parts: &Parts) -> Self {
        let path = parts.uri.path();
        // `/api/v1/namespaces/{}/{}/{}/proxy`, or `/api/v1/nodes/{}/proxy`.
        let segments = if path.starts_with("/api/v1/namespaces/") {
            7
        } else {
            5
        };
        let end = path
            .match_indices('/')
            .map(|(at, _)| at)
            .nth(segments)
            .unwrap_or(path.len());
        let host = parts
            .uri
            .authority()
            .map(|authority| authority.as_str().to_owned());
        let header = || {
            parts
                .headers
                .get(header::HOST)?
                .to_str()
                .ok()
                .map(str::to_owned)
        };
        Self {
            prefix: path[..end].to_owned(),
            path: path[end..].to_owned(),
            host: host.or_else(header),
        }
    }

    /// Makes an answer one from here: redirects lead through the proxy again.
    pub(super) fn rewrite_answer(&self, headers: &mut HeaderMap, upgrades: bool) {
        if !upgrades {
            remove_hop_by_hop(headers);
        }
        let location = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        if let Some(rewritten) = location.and_then(|location| self.rewrite_location(location)) {
            headers.insert(header::LOCATION, rewritten);
        }
    }

    /// A redirect to another path of the same host, as it leads there from outside. `None` for one that can stay as it
    /// is: to another host, or relative.
    fn rewrite_location(&self, location: &str) -> Option<HeaderValue> {
        let uri: http::Uri = location.parse().ok()?;
        let ours = self.host.as_deref();
        if let Some(authority) = uri.authority()
            && Some(authority.as_str()) != ours
        {
            return None;
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let fragment = location.split_once('#').map(|(_, fragment)| fragment);
        if !location.starts_with('/') && uri.authority().is_none() || path.starts_with(&self.prefix)
        {
            return None;
        }
        let mut rewritten = format!("{}{path}", self.prefix);
        if let Some(fragment) = fragment {
            rewritten = format!("{rewritten}#{fragment}");
        }
        HeaderValue::from_str(&rewritten).ok()
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The headers of the request that is passed on: those of the client, without what is between it and us, and with where
/// it came from.
pub(super) fn request_headers(parts: &Parts, outside: &Outside, upgrades: bool) -> HeaderMap {
    let mut headers = parts.headers.clone();
    let upgrade = headers.get(header::UPGRADE).cloned();
    remove_hop_by_hop(&mut headers);
    for name in CREDENTIALS {
        headers.remove(name);
    }
    let impersonating: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(IMPERSONATE))
        .cloned()
        .collect();
    for name in impersonating {
        headers.remove(name);
    }
    without_tokens(&mut headers);
    if upgrades && let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    let uri = format!("{}{}", outside.prefix, outside.path);
    set(&mut headers, "x-forwarded-uri", &uri);
    set(&mut headers, "x-forwarded-proto", "https");
    if let Some(host) = &outside.host {
        set(&mut headers, "x-forwarded-host", host);
        if !headers.contains_key(header::HOST) {
            set(&mut headers, "host", host);
        }
    }
    if let Some(Peer(peer)) = parts.extensions.get() {
        let before = headers
            .get("x-forwarded-for")
            .and_then(|value| value.to_str().ok());
        let all = match before {
            Some(before) => format!("{before}, {}", peer.ip()),
            None => peer.ip().to_string(),
        };
        set(&mut headers, "x-forwarded-for", &all);
    }
    headers
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn outside(path: &str) -> Outside {
        Outside::of(&parts(path, &[("host", "cluster:6443")]))
    }

    #[test]
    fn the_prefix_ends_with_proxy() {
        let web = outside("/api/v1/namespaces/a/services/http:web:80/proxy/a%2Fb//c/?q=1");
        assert_eq!(
            web.prefix,
            "/api/v1/namespaces/a/services/http:web:80/proxy"
        );
        assert_eq!(web.path, "/a%2Fb//c/");
        let node = outside("/api/v1/nodes/one/proxy");
        assert_eq!(
            (node.prefix.as_str(), node.path.as_str()),
            ("/api/v1/nodes/one/proxy", "")
        );
    }

    #[test]
    fn redirects_lead_through_the_proxy_again() {
        let web = outside("/api/v1/namespaces/a/pods/web/proxy/");
        let prefix = "/api/v1/namespaces/a/pods/web/proxy";
        for (location, expected) in [
            (
                "/login?next=/#top",
                Some(format!("{prefix}/login?next=/#top")),
            ),
            ("http://cluster:6443/x", Some(format!("{prefix}/x"))),
            ("https://elsewhere/x", None),
            ("relative/x", None),
            ("/api/v1/namespaces/a/pods/web/proxy/x", None),
        ] {
            let rewritten = web.rewrite_location(location);
            assert_eq!(
                rewritten,
                expected.map(|text| text.parse().unwrap()),
                "{location}"
            );
        }
    }

    #[test]
    fn credentials_and_what_is_about_the_connection_are_not_passed_on() {
        let parts = parts(
            "/api/v1/namespaces/a/pods/web/proxy/x",
            &[
                ("host", "cluster:6443"),
                ("authorization", "Bearer secret"),
                ("impersonate-user", "root"),
                ("connection", "close, x-mine"),
                ("x-mine", "1"),
                ("te", "trailers"),
                ("cookie", "c=1"),
                ("upgrade", "websocket"),
            ],
        );
        let outside = Outside::of(&parts);
        let headers = request_headers(&parts, &outside, false);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "cookie",
            "host",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-uri",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            headers["x-forwarded-uri"],
            "/api/v1/namespaces/a/pods/web/proxy/x"
        );
        let upgraded = request_headers(&parts, &outside, true);
        assert_eq!(
            (&upgraded["connection"], &upgraded["upgrade"]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }
}
