//! The engine of every controller: keys from a [`WorkQueue`] to a [`Reconciler`], several at a time.

use std::{fmt::Display, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::queue::WorkQueue;

/// How long work in flight may go on after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(2);

/// After this many failures in a row, they are worth a warning: the first few are ordinary conflicts and races.
const WORTH_A_WARNING: u32 = 4;

/// What a [`Reconciler`] wants next for a key it has dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing before something changes.
    Wait,
    /// Another look after this time, even if nothing changes.
    After(Duration),
}

/// Brings what is closer to what should be, one object at a time.
///
/// `reconcile` is never run twice at the same time for one key. It may be cut off at any await when the process
/// stops, so each of its writes must leave a state from which the next run can go on.
pub trait Reconciler: Send + Sync + 'static {
    /// What names the object to look at.
    type Key: Clone + Eq + Hash + Display + Send + Sync + 'static;
    /// Why a look failed.
    type Error: std::error::Error + Send;
    /// For the log.
    const NAME: &'static str;

    /// Looks at the object named `key`; an error brings the key back after a back-off.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, Self::Error>> + Send;
}

/// Runs `reconciler` over the keys of `queue`, at most `workers` at a time, until `shutdown`.
///
/// A panic in `reconcile` is logged and treated as a failure of that key alone.
pub async fn drive<R: Reconciler>(
    reconciler: Arc<R>,
    queue: WorkQueue<R::Key>,
    workers: usize,
    shutdown: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = running.join_next() => {}
            key = queue.next(), if running.len() < workers => {
                running.spawn(look(Arc::clone(&reconciler), queue.clone(), key));
            }
        }
    }
    if tokio::time::timeout(DRAIN, running.join_all())
        .await
        .is_err()
    {
        warn!(controller = R::NAME, "stopped with work in flight");
    }
}

async fn look<R: Reconciler>(reconciler: Arc<R>, queue: WorkQueue<R::Key>, key: R::Key) {
    match AssertUnwindSafe(reconciler.reconcile(&key))
        .catch_unwind()
        .await
    {
        Ok(Ok(next)) => {
            queue.done(&key);
            if let Next::After(delay) = next {
                queue.add_after(key, delay);
            }
        }
        Ok(Err(error)) => {
            let (failures, delay) = queue.failed(&key);
            if failures < WORTH_A_WARNING {
                debug!(controller = R::NAME, %key, ?delay, error = %chain(&error), "will try again");
            } else {
                warn!(controller = R::NAME, %key, failures, ?delay, error = %chain(&error), "keeps failing");
            }
        }
        Err(_) => {
            queue.failed(&key);
            error!(controller = R::NAME, %key, "panicked; will try again");
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;
    use crate::queue::Pacing;

    /// Follows a script for each key and records what happens.
    #[derive(Default)]
    struct Scripted {
        looks: Mutex<HashMap<&'static str, u32>>,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    impl Scripted {
        fn looks_at(&self, key: &'static str) -> u32 {
            self.looks.lock().unwrap().get(key).copied().unwrap_or(0)
        }
    }

    impl Reconciler for Scripted {
        type Key = &'static str;
        type Error = NotYet;
        const NAME: &'static str = "scripted";

        async fn reconcile(&self, key: &&'static str) -> Result<Next, NotYet> {
            let looks = {
                let mut looks = self.looks.lock().unwrap();
                let looks = looks.entry(key).or_default();
                *looks += 1;
                *looks
            };
            let running = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(running, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            match *key {
                "fails-twice" if looks < 3 => Err(NotYet),
                "panics-once" if looks == 1 => panic!("on purpose"),
                "comes-back" if looks == 1 => Ok(Next::After(Duration::from_mins(1))),
                _ => Ok(Next::Wait),
            }
        }
    }

    async fn run(keys: &[&'static str], workers: usize, time: Duration) -> Arc<Scripted> {
        let reconciler = Arc::new(Scripted::default());
        let queue = WorkQueue::new(Pacing::default());
        let shutdown = CancellationToken::new();
        let driving = tokio::spawn(drive(
            Arc::clone(&reconciler),
            queue.clone(),
            workers,
            shutdown.clone(),
        ));
        for key in keys {
            queue.add(key);
        }
        tokio::time::sleep(time).await;
        shutdown.cancel();
        driving.await.unwrap();
        reconciler
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_are_tried_again_and_hurt_no_other_key() {
        let reconciler = run(
            &["fails-twice", "panics-once", "fine"],
            4,
            Duration::from_secs(30),
        )
        .await;
        assert_eq!(reconciler.looks_at("fails-twice"), 3);
        assert_eq!(reconciler.looks_at("panics-once"), 2);
        assert_eq!(reconciler.looks_at("fine"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_when_its_reconciler_wants_so() {
        assert_eq!(
            run(&["comes-back"], 1, Duration::from_secs(59))
                .await
                .looks_at("comes-back"),
            1
        );
        assert_eq!(
            run(&["comes-back"], 1, Duration::from_secs(61))
                .await
                .looks_at("comes-back"),
            2
        );
    }

    #[tokio::test(start_paused = true)]
    async fn parallelism_is_bounded() {
        let reconciler = run(
            &["a", "b", "c", "d", "e", "f", "g"],
            3,
            Duration::from_secs(1),
        )
        .await;
        assert_eq!(reconciler.most_at_once.load(Ordering::SeqCst), 3);
        assert_eq!(reconciler.looks_at("g"), 1);
    }

    #[test]
    fn the_causes_of_an_error_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("creating a pod")]
        struct Outer(#[source] NotYet);
        assert_eq!(chain(&Outer(NotYet)), "creating a pod: not yet");
    }
}
