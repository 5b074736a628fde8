//! Probes, the version, metrics.

use std::sync::Arc;

use axum::response::Response;
use http::{StatusCode, header, request::Parts};
use serde_json::json;

use super::{Server, answer};
use crate::{negotiation, query::Query};

/// The Kubernetes version whose API this is.
pub(crate) const KUBERNETES: (&str, &str, &str) = ("1", "36", "v1.36.2");

/// What a text of metrics ends with.
const END_OF_METRICS: &str = "# EOF\n";

/// The answer, if the path is one of these.
pub(crate) fn answer(server: &Arc<Server>, parts: &Parts) -> Option<Response> {
    let path = parts.uri.path().trim_end_matches('/');
    if path == "/version" {
        return Some(version(parts));
    }
    if path == "/metrics" {
        let mut text = server.metrics.render(server.counts().into_iter());
        if let Some(more) = server.more_metrics.get() {
            // The end of a text is marked, and comes once.
            let end = text
                .strip_suffix(END_OF_METRICS)
                .map_or(text.len(), str::len);
            text.insert_str(end, &more());
        }
        let mut response = answer::text(StatusCode::OK, text);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        return Some(response);
    }
    let (probe, check) = match path.trim_start_matches('/').split_once('/') {
        Some((probe, check)) => (probe, Some(check)),
        None => (path.trim_start_matches('/'), None),
    };
    if !matches!(probe, "healthz" | "livez" | "readyz") {
        return None;
    }
    let mut checks = vec![
        Check::new("ping", true),
        Check::new("store", !server.store_is_lost()),
    ];
    if probe == "readyz" {
        checks.push(Check::new("shutdown", !server.closing.is_cancelled()));
    }
    let query = Query::parse(parts.uri.query());
    let Some(name) = check else {
        for check in &mut checks {
            check.excluded = query.all("exclude").any(|excluded| excluded == check.name);
        }
        return Some(all(probe, &checks, &query));
    };
    checks.retain(|check| check.name == name);
    Some(if checks.is_empty() {
        answer::text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
    } else {
        all(name, &checks, &query)
    })
}

/// One of the things that a probe looks at.
struct Check {
    name: &'static str,
    ok: bool,
    /// The caller does not want to know.
    excluded: bool,
}

impl Check {
    fn new(name: &'static str, ok: bool) -> Self {
        Self {
            name,
            ok,
            excluded: false,
        }
    }
}

fn all(probe: &str, checks: &[Check], query: &Query<'_>) -> Response {
    let good = checks.iter().all(|check| check.ok || check.excluded);
    if good && !query.flag("verbose").unwrap_or(true) {
        return answer::text(StatusCode::OK, "ok".to_owned());
    }
    let lines = checks.iter().map(|Check { name, ok, excluded }| {
        if *excluded {
            format!("[+]{name} excluded: ok\n")
        } else if *ok {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed\n")
        }
    });
    let verdict = if good { "passed" } else { "failed" };
    let text = lines
        .chain([format!("{probe} check {verdict}\n")])
        .collect();
    answer::text(
        if good {
            StatusCode::OK
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        },
        text,
    )
}

fn version(parts: &Parts) -> Response {
    let (major, minor, git) = KUBERNETES;
    let version = json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("{git}+vaquita-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    });
    answer::value(
        StatusCode::OK,
        &version,
        negotiation::encoding(&parts.headers),
    )
}

/// The processor, as container platforms name it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
