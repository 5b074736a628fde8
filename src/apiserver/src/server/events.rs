//! Events are news, not records: after a while they go by themselves.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use vaquita_api::{Object, meta};

use super::Server;

/// How often old ones are looked for.
const PERIOD: Duration = Duration::from_mins(5);

/// Removes Events that are older than the configured time, every few minutes, for ever.
pub(crate) async fn expire_events(server: Arc<Server>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        sweep(&server, Timestamp::now()).await;
    }
}

async fn sweep(server: &Server, now: Timestamp) {
    let Some(events) = server.served("", "v1", "events") else {
        return;
    };
    let snapshot = events.collection.snapshot();
    for entry in snapshot.range(events.collection.prefix(), None) {
        let Ok(object) = entry.value() else {
            continue;
        };
        let age = last_seen(&object).map_or(Duration::ZERO, |seen| {
            now.duration_since(seen).try_into().unwrap_or_default()
        });
        // One that is changed meanwhile stays for the next time.
        if age > server.config.event_ttl && server.remove(&events, entry).await.is_err() {
            return;
        }
        tokio::task::consume_budget().await;
    }
}

/// When it happened last.
fn last_seen(event: &Object) -> Option<Timestamp> {
    const PATHS: [&[&str]; 4] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ];
    PATHS
        .iter()
        .filter_map(|path| meta::at(event, path).and_then(Value::as_str)?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Config, server::tests::Api};

    #[tokio::test]
    async fn only_what_is_old_goes() {
        let api = Api::with(Config {
            event_ttl: Duration::from_hours(1),
            ..Config::default()
        })
        .await;
        let path = "/api/v1/namespaces/default/events";
        let now = Timestamp::now();
        for (name, last) in [
            ("old", "2001-01-01T00:00:00Z".to_owned()),
            ("new", meta::time(now)),
        ] {
            let event = json!({
                "metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                "reason": "Tested", "lastTimestamp": last,
            });
            api.post(path, event).await.ok();
        }
        let names = async || crate::server::tests::names(&api.get(path).await.ok());
        // Both have just been created.
        sweep(api.inner(), now).await;
        assert_eq!(names().await, ["new", "old"]);
        sweep(api.inner(), now + jiff::SignedDuration::from_mins(61)).await;
        assert_eq!(names().await, [""; 0]);
    }
}
