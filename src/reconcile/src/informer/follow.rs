//! One list-and-watch that never ends: `kube`'s watcher with back-off and a say in the log.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::backoff::Backoff;

/// Between attempts to reach an API server that does not answer.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(10),
};

/// Hands every event of the collection behind `api` to `apply`, in order, for ever.
///
/// Errors are logged, waited out with back-off and recovered from: after a gap the watch resumes, or a new
/// `Init`…`InitDone` series tells the whole state again. Drop the future to stop.
pub async fn follow<K>(api: Api<K>, config: watcher::Config, mut apply: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let url = api.resource_url().to_owned();
    let mut failures = 0;
    let mut events = pin!(watcher(api, config));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // `Init` is announced before anything is asked of the server, so it proves nothing.
                if !matches!(event, Event::Init) {
                    failures = 0;
                }
                apply(event);
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    debug!(%url, %error, "watch interrupted");
                } else {
                    warn!(%url, %error, failures, "watch keeps failing");
                }
                tokio::time::sleep(BACKOFF.delay(failures)).await;
            }
        }
    }
}
