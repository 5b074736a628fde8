//! Events are news, not records: after a while they go by themselves.
//!
//! How old one is does not depend on the clock of the machine, which may be set at any time. Revisions tell instead: what
//! was written before a revision that was the latest at some moment is older than that moment ([`Ages`]).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use vaquita_api::{Object, meta};
use vaquita_store::Revision;

use super::Server;

/// How often old ones are looked for.
const PERIOD: Duration = Duration::from_mins(5);

/// Removes Events that are older than the configured time, every few minutes, for ever.
pub(crate) async fn expire_events(server: Arc<Server>) {
    let mut ages = Ages::new(server.store.revision(), Timestamp::now());
    loop {
        tokio::time::sleep(PERIOD).await;
        sweep(&server, &ages).await;
        ages.note(server.store.revision(), server.config.event_ttl);
    }
}

/// Tells how old objects are.
struct Ages {
    /// The latest revision when we began, and what time it was then.
    began: (Revision, Instant, Timestamp),
    /// Latest revisions at later moments, in their order.
    later: VecDeque<(Revision, Instant)>,
}

impl Ages {
    fn new(revision: Revision, now: Timestamp) -> Self {
        Self {
            began: (revision, Instant::now(), now),
            later: VecDeque::new(),
        }
    }

    /// Notes that this is the latest revision now. No more is remembered than objects of up to `oldest` need.
    fn note(&mut self, revision: Revision, oldest: Duration) {
        self.later.push_back((revision, Instant::now()));
        let is_old = |(_, at): &(Revision, Instant)| at.elapsed() > oldest;
        while self.later.get(1).is_some_and(is_old) {
            self.later.pop_front();
        }
    }

    /// How old an object is, at least. Of what was there before us, only the times in it tell.
    fn of(&self, revision: Revision, seen: Option<Timestamp>) -> Duration {
        let (first, began, clock) = self.began;
        if revision <= first {
            let before = seen.map(|seen| clock.duration_since(seen));
            let before = before.and_then(|before| Duration::try_from(before).ok());
            return before.unwrap_or_default() + began.elapsed();
        }
        let next = self.later.partition_point(|(latest, _)| *latest < revision);
        let next = self.later.get(next);
        next.map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }
}

async fn sweep(server: &Server, ages: &Ages) {
    let Some(events) = server.served("", "v1", "events") else {
        return;
    };
    let snapshot = events.collection.snapshot();
    for entry in snapshot.range(events.collection.prefix(), None) {
        let Ok(object) = entry.value() else {
            continue;
        };
        let age = ages.of(entry.revision, last_seen(&object));
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

    #[tokio::test(start_paused = true)]
    async fn age_is_counted_whatever_the_clock_says() {
        const HOUR: Duration = Duration::from_hours(1);
        let minutes = |minutes: u64| Duration::from_mins(minutes);
        let clock = Timestamp::from_second(1_000_000).unwrap();
        let mut ages = Ages::new(10, clock);
        // Before us: by the times in them, of which one is wrong.
        let half_an_hour_ago = Some(clock - jiff::SignedDuration::from_mins(30));
        let in_a_day = Some(clock + jiff::SignedDuration::from_hours(24));
        tokio::time::advance(minutes(20)).await;
        assert_eq!(ages.of(10, half_an_hour_ago), minutes(50));
        assert_eq!(ages.of(10, in_a_day), minutes(20));
        // After us: by when it was noticed, whatever they say.
        assert_eq!(ages.of(11, half_an_hour_ago), Duration::ZERO);
        ages.note(12, HOUR);
        tokio::time::advance(minutes(5)).await;
        ages.note(15, HOUR);
        tokio::time::advance(minutes(5)).await;
        for (revision, age) in [(11, 10), (12, 10), (13, 5), (15, 5), (16, 0)] {
            assert_eq!(ages.of(revision, in_a_day), minutes(age), "{revision}");
        }
        for revision in 16..1000 {
            ages.note(revision, HOUR);
            tokio::time::advance(minutes(5)).await;
        }
        assert!(ages.later.len() < 15, "{}", ages.later.len());
        assert!(ages.of(900, None) > HOUR);
    }

    #[tokio::test]
    async fn only_what_is_old_goes() {
        let api = Api::with(Config {
            event_ttl: Duration::from_hours(1),
            ..Config::default()
        })
        .await;
        let path = "/api/v1/namespaces/default/events";
        let names = async || crate::server::tests::names(&api.get(path).await.ok());
        let post = async |name: &str| {
            let event = json!({
                "metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                "reason": "Tested", "lastTimestamp": "2001-01-01T00:00:00Z",
            });
            api.post(path, event).await.ok();
        };
        post("old").await;
        let an_hour_later = Timestamp::now() + jiff::SignedDuration::from_mins(61);
        let ages = Ages::new(api.inner().store.revision(), an_hour_later);
        post("new").await;
        sweep(api.inner(), &ages).await;
        assert_eq!(names().await, ["new"]);
    }
}
