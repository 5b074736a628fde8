//! Instances that answer several requests at once: handlers of WASI 0.3, if their configuration says so.
//!
//! Each lives in a task of its own, which takes requests until it has had as many as it may, or nothing to do for a while. One that fails
//! takes along all the requests that it has.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Request;
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::p3::bindings::Service;

use super::body::{BreakUnlessDone, Broken};
use super::guest::{Given, answer};
use crate::process::Failure;
use crate::state::State;

/// How long an instance waits for its next request. An idle handler holds none.
const IDLE: Duration = Duration::from_secs(10);

/// A request on its way to an instance.
pub(super) struct Job {
    request: Request<WasiBody>,
    give: oneshot::Sender<Given>,
    breaking: BreakUnlessDone,
    done: oneshot::Sender<wasmtime::Result<()>>,
}

/// Counts a request among those of its instance.
struct Load(Arc<AtomicU32>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How an instance ended, once it has: with a failure, or because it was done.
#[derive(Clone)]
enum Fate {
    Running,
    Over(Option<Failure>),
}

/// An instance that takes requests.
struct Open {
    jobs: mpsc::UnboundedSender<(Job, Load)>,
    load: Arc<AtomicU32>,
    /// Requests that it may still be given.
    left: u32,
    fate: watch::Receiver<Fate>,
}

/// The instances of a handler that take requests.
#[derive(Default)]
pub(super) struct Crowd {
    open: Mutex<VecDeque<Open>>,
}

/// Where a new instance finds its requests, and tells how it ended.
pub(super) struct Inbox {
    jobs: mpsc::UnboundedReceiver<(Job, Load)>,
    fate: watch::Sender<Fate>,
}

/// How a request went.
pub(super) struct Outcome {
    done: oneshot::Receiver<wasmtime::Result<()>>,
    fate: watch::Receiver<Fate>,
}

impl Crowd {
    /// Gives a request to an instance that has room for it. If there is none, a new one is wanted, which begins with what is in the
    /// inbox: so many requests at once, so many in all.
    pub(super) fn give(
        &self,
        request: Request<WasiBody>,
        (give, broken): (oneshot::Sender<Given>, Broken),
        (at_once, in_all): (u32, u32),
    ) -> (Outcome, Option<Inbox>) {
        let (done, outcome) = oneshot::channel();
        let mut job = Job {
            request,
            give,
            breaking: BreakUnlessDone::new(broken),
            done,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            open.retain(|instance| instance.left > 0 && !instance.jobs.is_closed());
            let has_room = |instance: &&mut Open| instance.load.load(Ordering::Relaxed) < at_once;
            let Some(instance) = open.iter_mut().find(has_room) else {
                break;
            };
            match instance.send(job) {
                Ok(fate) => {
                    return (
                        Outcome {
                            done: outcome,
                            fate,
                        },
                        None,
                    );
                }
                // It ended in this moment.
                Err(back) => job = back,
            }
        }
        let (jobs, received) = mpsc::unbounded_channel();
        let (tell, fate) = watch::channel(Fate::Running);
        let mut instance = Open {
            jobs,
            load: Arc::default(),
            left: in_all.max(1),
            fate: fate.clone(),
        };
        // The other end is here.
        let _ = instance.send(job);
        open.push_back(instance);
        let inbox = Inbox {
            jobs: received,
            fate: tell,
        };
        (
            Outcome {
                done: outcome,
                fate,
            },
            Some(inbox),
        )
    }
}

impl Open {
    /// Sends it a request; or gives that back if it has ended.
    #[expect(
        clippy::result_large_err,
        reason = "it is given back as it came, and rarely"
    )]
    fn send(&mut self, job: Job) -> Result<watch::Receiver<Fate>, Job> {
        self.left = self.left.saturating_sub(1);
        self.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&self.load));
        match self.jobs.send((job, load)) {
            Ok(()) => Ok(self.fate.clone()),
            Err(mpsc::error::SendError((job, _))) => Err(job),
        }
    }
}

impl Outcome {
    /// Waits until the request is done with; or until its instance is. `None` if that ended before it was done.
    pub(super) async fn wait(mut self) -> Option<Result<wasmtime::Result<()>, Failure>> {
        if let Ok(result) = self.done.await {
            return Some(Ok(result));
        }
        let fate = self
            .fate
            .wait_for(|fate| matches!(fate, Fate::Over(_)))
            .await;
        match fate.as_deref() {
            Ok(Fate::Over(Some(failure))) => Some(Err(failure.clone())),
            _ => None,
        }
    }
}

impl Inbox {
    /// Answers requests until there are no more.
    pub(super) async fn work(&mut self, accessor: &Accessor<State>, guest: &Service) {
        let mut working = FuturesUnordered::new();
        loop {
            let nothing_to_do = working.is_empty();
            tokio::select! {
                result = working.next(), if !nothing_to_do => {
                    let is_well: Option<bool> = result;
                    if is_well == Some(false) {
                        self.jobs.close();
                    }
                }
                job = self.jobs.recv() => match job {
                    Some(job) => working.push(one(accessor, guest, job)),
                    None => break,
                },
                () = tokio::time::sleep(IDLE), if nothing_to_do => {
                    // Those that have been sent are still received.
                    self.jobs.close();
                }
            }
        }
        while working.next().await.is_some() {}
    }

    /// It has ended.
    pub(super) fn over(self, failure: Option<Failure>) {
        self.fate.send_replace(Fate::Over(failure));
    }
}

/// Answers one request. Says whether the instance can have more.
async fn one(accessor: &Accessor<State>, guest: &Service, (job, _load): (Job, Load)) -> bool {
    let result = answer(accessor, guest, job.request, job.give).await;
    let is_well = result.is_ok();
    if is_well {
        job.breaking.done();
    }
    // Nobody listens if it took too long.
    let _ = job.done.send(result);
    is_well
}
