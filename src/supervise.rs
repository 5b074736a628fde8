//! Long-running parts of a cluster: started in order, stopped in the reverse order, none lost silently.
//!
//! Each part gets a [`CancellationToken`] and has until its deadline to end after the token is cancelled; then it is
//! cut off. A part that ends without having been told to, by returning or by a panic, is a failure of the whole
//! process: [`Supervisor::failure`] resolves, and the caller stops the rest in good order.

use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt as _, Shared};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It returned.
    Returned,
    /// It panicked, with this message.
    Panicked(String),
}

type Ended = Shared<BoxFuture<'static, Ending>>;

struct Part {
    name: &'static str,
    token: CancellationToken,
    deadline: Duration,
    task: tokio::task::AbortHandle,
    ended: Ended,
}

/// The parts that run, oldest first.
#[derive(Default)]
pub struct Supervisor {
    parts: Vec<Part>,
}

impl Supervisor {
    /// Starts `run` as a task named `name`. When told to stop it has `deadline` to end.
    pub fn start<F, Fut>(&mut self, name: &'static str, deadline: Duration, run: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let token = CancellationToken::new();
        let handle = tokio::spawn(run(token.clone()));
        self.parts.push(Part {
            name,
            token,
            deadline,
            task: handle.abort_handle(),
            ended: ending(handle).boxed().shared(),
        });
    }

    /// Resolves when a part has ended by itself, with its name and how. Never resolves while all of them run.
    pub async fn failure(&self) -> (&'static str, Ending) {
        if self.parts.is_empty() {
            return future::pending().await;
        }
        let ended = self.parts.iter().map(|part| part.ended.clone());
        let (ending, index, _) = future::select_all(ended).await;
        (self.parts[index].name, ending)
    }

    /// Stops everything, newest part first, and returns the names of those that had to be cut off.
    pub async fn stop(mut self) -> Vec<&'static str> {
        let mut cut_off = Vec::new();
        while let Some(part) = self.parts.pop() {
            part.token.cancel();
            if tokio::time::timeout(part.deadline, part.ended)
                .await
                .is_err()
            {
                part.task.abort();
                cut_off.push(part.name);
            }
        }
        cut_off
    }
}

/// Parts that were never stopped end with their supervisor.
impl Drop for Supervisor {
    fn drop(&mut self) {
        for part in &self.parts {
            part.token.cancel();
            part.task.abort();
        }
    }
}

async fn ending(handle: JoinHandle<()>) -> Ending {
    match handle.await {
        Ok(()) => Ending::Returned,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Ending::Panicked(panic_message(panic.as_ref())),
            Err(_) => Ending::Returned,
        },
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn parts_stop_newest_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        for name in ["store", "api", "node"] {
            let order = order.clone();
            supervisor.start(name, DEADLINE, |stop| async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
            });
        }
        assert!(supervisor.stop().await.is_empty());
        assert_eq!(*order.lock().unwrap(), ["node", "api", "store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ignores_its_token_is_cut_off() {
        let mut supervisor = Supervisor::default();
        supervisor.start("deaf", DEADLINE, |_| future::pending());
        supervisor.start(
            "polite",
            DEADLINE,
            |stop| async move { stop.cancelled().await },
        );
        assert_eq!(supervisor.stop().await, ["deaf"]);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_message() {
        let mut supervisor = Supervisor::default();
        supervisor.start(
            "steady",
            DEADLINE,
            |stop| async move { stop.cancelled().await },
        );
        supervisor.start("shaky", DEADLINE, |_| async { panic!("out of luck") });
        assert_eq!(
            supervisor.failure().await,
            ("shaky", Ending::Panicked("out of luck".to_owned()))
        );
    }
}
