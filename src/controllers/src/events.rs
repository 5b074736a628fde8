//! Events don't stay: those that have not happened again for a while are deleted.
//!
//! An API server over etcd lets its Events expire by itself. This does the same for one that doesn't, from outside: it
//! goes through them page by page every now and then, so that they need not be watched or held here.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::{Context, meta};

/// How often to go through all Events: one stays up to this much longer than it should.
const INTERVAL: Duration = Duration::from_mins(5);
/// How many Events one request lists.
const PAGE: u32 = 500;
/// How many are deleted at the same time.
const AT_ONCE: usize = 16;

/// Runs the clean-up until shutdown.
pub async fn run(context: Context) {
    let cleaning = async {
        let mut ticks = tokio::time::interval(
            INTERVAL.min(context.options.event_ttl.max(Duration::from_secs(1))),
        );
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = clean(&context.client, context.options.event_ttl).await {
                debug!(%error, "not all events could be looked through");
            }
        }
    };
    context.shutdown.run_until_cancelled(cleaning).await;
}

async fn clean(client: &Client, ttl: Duration) -> Result<(), kube::Error> {
    let all = Api::<Event>::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let events = all.list(&page).await?;
        let now = Timestamp::now();
        let mut expired = events.items;
        expired.retain(|event| is_expired(event, ttl, now));
        let deletions = expired
            .into_iter()
            .map(|event| delete(client.clone(), event));
        stream::iter(deletions)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
        match events.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn delete(client: Client, event: Event) {
    let api = Api::<Event>::namespaced(client, &event.namespace().unwrap_or_default());
    // Not if it happened again in this moment.
    let this_version = Preconditions {
        uid: event.uid(),
        resource_version: event.resource_version(),
    };
    let name = event.name_any();
    if let Err(error) = api
        .delete(&name, &DeleteParams::default().preconditions(this_version))
        .await
        && !meta::is_not_found(&error)
    {
        debug!(name, %error, "an event that has expired could not be deleted");
    }
}

/// Whether the event last happened more than `ttl` ago.
fn is_expired(event: &Event, ttl: Duration, now: Timestamp) -> bool {
    last_time(event)
        .is_some_and(|last| Duration::try_from(now.duration_since(last)).is_ok_and(|age| age > ttl))
}

/// When the event last happened, by the latest of the times that it may tell.
fn last_time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref())
        .map(|time| time.0);
    let micro = event.event_time.as_ref().map(|time| time.0);
    let times = [
        &event.last_timestamp,
        &event.first_timestamp,
        &event.metadata.creation_timestamp,
    ];
    times
        .into_iter()
        .flatten()
        .map(|time| time.0)
        .chain(series)
        .chain(micro)
        .max()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{Options, testing::api::FakeApi};

    const EVENTS: &str = "api/v1/events";

    fn event(name: &str, last: Timestamp) -> Value {
        json!({
            "metadata": { "namespace": "shop", "name": name, "creationTimestamp": "2020-01-01T00:00:00Z" },
            "involvedObject": {},
            "lastTimestamp": last.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn only_events_that_have_not_happened_for_long_are_deleted() {
        let api = FakeApi::new();
        let ago = |minutes: i64| {
            Timestamp::from_second(Timestamp::now().as_second() - 60 * minutes).unwrap()
        };
        api.put(EVENTS, &event("old", ago(61)));
        api.put(EVENTS, &event("new", ago(59)));
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        api.until("the old one is gone", |api| {
            api.object(EVENTS, "shop", "old").is_none()
        })
        .await;
        api.settle().await;
        assert!(api.object(EVENTS, "shop", "new").is_some());
    }

    #[test]
    fn the_latest_time_counts() {
        let time = |second: i64| Timestamp::from_second(second).unwrap();
        let mut happened: Event = serde_json::from_value(event("x", time(100))).unwrap();
        happened.metadata.creation_timestamp = None;
        let ttl = Duration::from_secs(10);
        assert!(is_expired(&happened, ttl, time(111)));
        assert!(!is_expired(&happened, ttl, time(110)));
        assert!(!is_expired(&happened, ttl, time(50)), "clocks differ");
        assert!(
            !is_expired(&Event::default(), ttl, time(111)),
            "nobody knows"
        );
    }
}
