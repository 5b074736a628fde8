//! Keeps history from growing for ever.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{CompactError, Store};

/// Compacts `store` every `period` up to where it was one period before, so that at least one and at most two periods
/// of history are kept. Runs until the store is closed; drop the future to end it earlier.
///
/// Five minutes, as Kubernetes' API server does it, is a good period. A shorter one saves disk space but sends clients
/// that were away for longer back to a full list.
///
/// # Panics
///
/// If `period` is zero.
pub async fn compact_every(store: Arc<dyn Store>, period: Duration) {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks = stream::unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        Some(((), ticks))
    });
    compact_at(store, ticks).await;
}

/// Compacts `store` at every tick up to where it was at the tick before, or at the start.
async fn compact_at(store: Arc<dyn Store>, ticks: impl Stream<Item = ()>) {
    let mut ticks = std::pin::pin!(ticks);
    let mut before = store.revision();
    while ticks.next().await.is_some() {
        match store.compact(before).await {
            Ok(()) => before = store.revision(),
            Err(CompactError::Closed) => return,
            // Writers are told that the storage fails; trying again does no harm.
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expect, Write, memory};

    #[tokio::test]
    async fn keeps_what_was_written_since_the_tick_before() {
        let store: Arc<dyn Store> = Arc::new(memory());
        let ticks = stream::unfold(store.clone(), |store| async {
            for _ in 0..10 {
                store
                    .commit(Write::put("k", "", Expect::Anything))
                    .await
                    .unwrap();
            }
            Some(((), store))
        });
        // Revisions 11, 21, 31, 41 at the ticks.
        compact_at(store.clone(), ticks.take(4)).await;
        assert_eq!((store.revision(), store.compacted()), (41, 31));
    }

    #[tokio::test]
    async fn ends_with_the_store() {
        let store: Arc<dyn Store> = Arc::new(memory());
        store.close().await;
        compact_at(store, stream::repeat(())).await;
    }
}
