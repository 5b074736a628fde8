//! What a kubelet answers to the API server: `/containerLogs`, `/pods`, `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor` and `/healthz`; and the way to its
//! connections, `/portForward`, `/attach` and `/exec`.
//!
//! Errors are plain text with a status code, as upstream's kubelet has them; the API server makes a Status of them.

use std::collections::HashMap;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query as UrlQuery, State as Shared},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{List, api::core::v1::Pod};
use tokio_stream::wrappers::ReceiverStream;
use vaquita_logs::{LogStore, PodKey, Query, Streams};
use vaquita_runtime::LogStream;

use crate::{
    connections::{self, Connections},
    exec::Executor,
    pod::board::{Record, State},
    pods::{Entry, Registry},
    stats,
};

/// What the handlers look at.
#[derive(Clone)]
pub(crate) struct Kubelet {
    pub(crate) registry: Registry,
    pub(crate) logs: LogStore,
    pub(crate) connections: Connections,
    pub(crate) executor: Executor,
    pub(crate) machine: stats::Machine,
    pub(crate) disks: stats::disk::Disks,
}

/// The routes.
pub(crate) fn router(kubelet: Kubelet) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(container_logs),
        )
        .route("/stats/summary", get(stats::summary))
        .route("/metrics/resource", get(stats::resource))
        .route("/metrics/cadvisor", get(stats::containers))
        // GET of a WebSocket, POST of SPDY.
        .route(
            "/portForward/{namespace}/{pod}",
            any(connections::port_forward),
        )
        .route(
            "/attach/{namespace}/{pod}/{container}",
            any(connections::attach),
        )
        .route(
            "/exec/{namespace}/{pod}/{container}",
            any(connections::exec),
        )
        .with_state(kubelet)
}

/// A refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn pods(Shared(kubelet): Shared<Kubelet>) -> impl IntoResponse {
    let items = kubelet
        .registry
        .pods()
        .iter()
        .map(|pod| Pod::clone(pod))
        .collect();
    Json(List::<Pod> {
        items,
        ..List::default()
    })
}

async fn container_logs(
    Shared(kubelet): Shared<Kubelet>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    UrlQuery(options): UrlQuery<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let options = Options::parse(&options, Timestamp::now())?;
    let not_found = |message| Refusal(StatusCode::NOT_FOUND, message);
    let entry = kubelet.registry.find(&namespace, &pod);
    let entry = entry.ok_or_else(|| not_found(format!("pod \"{pod}\" does not exist")))?;
    let attempt = instance(&entry, &pod, &container, options.previous)?;
    let pieces = kubelet
        .logs
        .reader(&PodKey::of(&entry.pod), &container, attempt)
        .read(options.query);
    let body = Body::from_stream(ReceiverStream::new(pieces));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// Which instance's log is meant.
fn instance(entry: &Entry, pod: &str, container: &str, previous: bool) -> Result<u32, Refusal> {
    let record: Option<Record> = entry.board.read(|facts| {
        facts
            .containers
            .iter()
            .find(|record| record.name == container)
            .cloned()
    });
    let record = record.ok_or_else(|| {
        let message = format!("container \"{container}\" not found in pod \"{pod}\"");
        Refusal(StatusCode::NOT_FOUND, message)
    })?;
    let before = match record.state {
        // Nothing new has begun: the last instance is the one that ended.
        State::Waiting { .. } => record.last.is_some().then_some(record.restarts),
        State::Running { .. } | State::Terminated { .. } => record
            .last
            .is_some()
            .then(|| record.restarts.saturating_sub(1)),
    };
    if previous {
        let message =
            || format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
        return before.ok_or_else(|| Refusal::bad(message()));
    }
    match record.state {
        State::Running { .. } | State::Terminated { .. } => Ok(record.restarts),
        State::Waiting { reason, .. } => before.ok_or_else(|| {
            let why = match reason {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            Refusal::bad(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"
            ))
        }),
    }
}

/// The options of a request for logs: `PodLogOptions` in a query string.
#[derive(Debug)]
struct Options {
    previous: bool,
    query: Query,
}

impl Options {
    fn parse(options: &HashMap<String, String>, now: Timestamp) -> Result<Self, Refusal> {
        let get = |name: &str| {
            options
                .get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        let number = |name: &'static str, least: u64| -> Result<Option<u64>, Refusal> {
            let Some(text) = get(name) else {
                return Ok(None);
            };
            let number = text.parse().ok().filter(|number| *number >= least);
            let refusal = || {
                Refusal::bad(format!(
                    "{name}: must be a whole number of at least {least}, not {text:?}"
                ))
            };
            number.map(Some).ok_or_else(refusal)
        };
        let flag = |name: &'static str| match get(name) {
            None | Some("false" | "0" | "False" | "F" | "f") => Ok(false),
            Some("true" | "1" | "True" | "T" | "t") => Ok(true),
            Some(other) => Err(Refusal::bad(format!(
                "{name}: must be true or false, not {other:?}"
            ))),
        };
        let seconds = number("sinceSeconds", 1)?;
        let since = match (seconds, get("sinceTime")) {
            (Some(_), Some(_)) => {
                return Err(Refusal::bad(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                ));
            }
            (Some(seconds), None) => {
                let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Some(now.checked_sub(seconds).unwrap_or(Timestamp::MIN))
            }
            (None, Some(time)) => {
                let time = time
                    .parse()
                    .map_err(|error| Refusal::bad(format!("sinceTime: {error}")))?;
                Some(time)
            }
            (None, None) => None,
        };
        let streams = match get("stream") {
            None | Some("All") => Streams::All,
            Some("Stdout") => Streams::Only(LogStream::Stdout),
            Some("Stderr") => Streams::Only(LogStream::Stderr),
            Some(other) => {
                return Err(Refusal::bad(format!(
                    "stream: must be All, Stdout or Stderr, not {other:?}"
                )));
            }
        };
        let query = Query {
            follow: flag("follow")?,
            tail: number("tailLines", 0)?,
            since,
            timestamps: flag("timestamps")?,
            limit: number("limitBytes", 1)?,
            streams,
        };
        Ok(Self {
            previous: flag("previous")?,
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::pod::board::{Board, Facts, Termination};

    fn parse(options: &[(&str, &str)]) -> Result<Options, Refusal> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Options::parse(&options, Timestamp::from_second(1000).unwrap())
    }

    #[test]
    fn options_are_those_of_kubectl() {
        let options = parse(&[
            ("follow", "true"),
            ("tailLines", "0"),
            ("previous", "false"),
            ("timestamps", "true"),
            ("sinceSeconds", "10"),
            ("limitBytes", "7"),
            ("container", "c"),
        ])
        .unwrap();
        assert!(options.query.follow && options.query.timestamps && !options.previous);
        assert_eq!(
            (options.query.tail, options.query.limit),
            (Some(0), Some(7))
        );
        assert_eq!(options.query.since.map(Timestamp::as_second), Some(990));
        let since = parse(&[("sinceTime", "1970-01-01T00:00:05Z")])
            .unwrap()
            .query
            .since;
        assert_eq!(since.map(Timestamp::as_second), Some(5));
    }

    #[test]
    fn nonsense_is_refused_with_the_option() {
        for (name, value) in [
            ("tailLines", "-1"),
            ("tailLines", "many"),
            ("limitBytes", "0"),
            ("sinceSeconds", "0"),
            ("follow", "maybe"),
            ("sinceTime", "yesterday"),
            ("stream", "Stdin"),
        ] {
            let refusal = parse(&[(name, value)]).unwrap_err();
            assert!(
                refusal.0 == StatusCode::BAD_REQUEST && refusal.1.contains(name),
                "{refusal:?}"
            );
        }
        assert!(parse(&[("sinceSeconds", "1"), ("sinceTime", "1970-01-01T00:00:05Z")]).is_err());
        // A past beyond all time is the beginning of time.
        let since = parse(&[("sinceSeconds", "18446744073709551615")])
            .unwrap()
            .query
            .since;
        assert_eq!(since, Some(Timestamp::MIN));
    }

    #[test]
    fn the_instance_follows_from_the_state() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let end = Termination {
            code: 1,
            reason: "Error".to_owned(),
            message: None,
            started_at: None,
            finished_at: None,
            container_id: None,
        };
        let entry = |state: State, last: Option<&Termination>, restarts| {
            let mut facts = Facts::new(&pod);
            facts.containers[0].state = state;
            facts.containers[0].last = last.cloned();
            facts.containers[0].restarts = restarts;
            Entry {
                pod: Arc::new(pod.clone()),
                board: Arc::new(Board::new(facts)),
            }
        };
        let waiting = |reason| State::Waiting {
            reason,
            message: None,
        };
        let running = || State::Running {
            since: Timestamp::UNIX_EPOCH,
            started: true,
            ready: true,
        };
        let ended = || State::Terminated {
            end: end.clone(),
            for_good: false,
        };
        for (entry, current, previous) in [
            (entry(running(), None, 0), Some(0), None),
            (entry(running(), Some(&end), 3), Some(3), Some(2)),
            (entry(ended(), Some(&end), 3), Some(3), Some(2)),
            (entry(ended(), None, 0), Some(0), None),
            (
                entry(waiting("CrashLoopBackOff"), Some(&end), 3),
                Some(3),
                Some(3),
            ),
            (entry(waiting("ContainerCreating"), None, 0), None, None),
        ] {
            assert_eq!(instance(&entry, "p", "c", false).ok(), current);
            assert_eq!(instance(&entry, "p", "c", true).ok(), previous);
        }
        let pulling = entry(waiting("ImagePullBackOff"), None, 0);
        assert_eq!(
            instance(&pulling, "p", "c", false).unwrap_err().1,
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
        assert_eq!(
            instance(&pulling, "p", "x", false).unwrap_err().0,
            StatusCode::NOT_FOUND
        );
    }
}
