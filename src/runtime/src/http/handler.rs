//! A request and the instance that answers it: one of its own, unless the handler's configuration has instances
//! answer several, one after another.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::{Error, WasiBody};

use super::body::{BreakUnlessDone, Broken, GuestBody};
use super::crowd::{Crowd, Inbox};
use super::guest::{self, Given, Guest, Unasked};
use super::pool::{Instance, Pool};
use crate::config::HttpConfig;
use crate::module::HttpGuest;
use crate::process::{Environment, Failure};
use crate::runtime::Shared;
use crate::state::State;

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Error>>;

/// Has an instance answer each request, and makes an answer of whatever becomes of it.
pub(crate) struct Handler {
    runtime: Arc<Shared>,
    guest: HttpGuest,
    environment: Arc<Environment>,
    /// For requests that wait for their turn.
    places: Semaphore,
    turns: Arc<Semaphore>,
    timeout: Option<Duration>,
    /// Requests that an instance is given.
    reuse: u32,
    /// Requests that an instance answers at once.
    at_once: u32,
    pool: Arc<Pool>,
    crowd: Crowd,
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// Why a guest did not come to its own end.
enum Stopped {
    Failed(Failure),
    /// The request can't be given to a guest.
    Malformed,
    TimedOut,
    Cut,
}

impl Handler {
    pub(super) fn new(
        runtime: Arc<Shared>,
        guest: HttpGuest,
        environment: Arc<Environment>,
        config: &HttpConfig,
        tasks: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        Self {
            runtime,
            environment,
            places: Semaphore::new(config.max_connections.max(1)),
            turns: Arc::new(Semaphore::new(config.max_concurrent_requests.max(1))),
            timeout: config.request_timeout,
            reuse: config.requests_per_instance.max(1),
            at_once: match &guest {
                HttpGuest::P2(_) => 1,
                HttpGuest::P3(_) => config.concurrent_requests_per_instance.max(1),
            },
            guest,
            pool: Arc::default(),
            crowd: Crowd::default(),
            tasks,
            cut,
        }
    }

    /// Answers a request. The guest may work on when its answer's head is out, and even when the client is gone.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<WasiBody>) -> Answer {
        let deadline = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        // Many requests on each of many connections can wait, which must not be without a bound.
        let Ok(place) = self.places.try_acquire() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let turn = tokio::select! {
            biased;
            turn = Arc::clone(&self.turns).acquire_owned() => turn,
            () = until(deadline) => return plain(StatusCode::GATEWAY_TIMEOUT),
        };
        drop(place);
        self.environment
            .accounts
            .requests
            .fetch_add(1, Ordering::Relaxed);
        let (give, given) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let broken = Broken::default();
        let (this, its) = (Arc::clone(&self), broken.clone());
        // Whoever asks may be on a thread that is not for guests.
        let work = async move {
            let result = if this.at_once > 1 {
                this.work_in_crowd(request, give, its, deadline).await
            } else {
                this.work(request, give, its, deadline).await
            };
            drop(turn);
            // Nobody listens once the answer's head is out.
            let _ = stop.send(result);
        };
        self.tasks.spawn_on(work, &self.runtime.threads);
        match given.await {
            // There is no protocol that a guest could switch to.
            Ok(Ok(answer)) if answer.status().is_informational() => {
                self.environment
                    .report("the handler answered with a status that ends nothing");
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Ok(Ok(answer)) => answer.map(|body| GuestBody::new(body, broken).boxed_unsync()),
            Ok(Err(code)) => {
                self.environment
                    .report(&format!("the handler gave up on a request: {code}"));
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
            // The instance is gone, and the means to answer with it.
            Err(_) => self.unanswered(&stopped.await.unwrap_or(Err(Stopped::Cut))),
        }
    }

    /// A guest's whole work on a request, and the report of how it ended.
    async fn work(
        self: Arc<Self>,
        request: Request<WasiBody>,
        give: oneshot::Sender<Given>,
        broken: Broken,
        deadline: Option<Instant>,
    ) -> Result<(), Stopped> {
        let guest = self.runtime.processors.drive(
            self.run(request, give, broken),
            &self.environment.accounts.cpu,
        );
        let result = tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Stopped::Cut),
            () = until(deadline) => Err(Stopped::TimedOut),
            result = guest => result,
        };
        match &result {
            Err(Stopped::Failed(failure)) => self.report(failure),
            Err(Stopped::TimedOut) => self.environment.report("a request took too long"),
            Ok(()) | Err(Stopped::Malformed | Stopped::Cut) => {}
        }
        result
    }

    fn report(&self, failure: &Failure) {
        match failure {
            Failure::OutOfMemory => self.environment.report("out of memory"),
            Failure::Trapped(message) | Failure::Full(message) => self.environment.report(message),
            Failure::Exited(_) => {}
        }
    }

    /// A request to an instance that has others.
    async fn work_in_crowd(
        self: Arc<Self>,
        mut request: Request<WasiBody>,
        give: oneshot::Sender<Given>,
        broken: Broken,
        deadline: Option<Instant>,
    ) -> Result<(), Stopped> {
        self.name_host(&mut request);
        let bounds = (self.at_once, self.reuse);
        let (outcome, inbox) = self.crowd.give(request, (give, broken), bounds);
        if let Some(inbox) = inbox {
            let instance = Arc::clone(&self).live(inbox);
            let cut = self.cut.clone().run_until_cancelled_owned(instance);
            self.tasks.spawn_on(cut, &self.runtime.threads);
        }
        let outcome = tokio::select! {
            biased;
            () = self.cut.cancelled() => return Err(Stopped::Cut),
            () = until(deadline) => {
                self.environment.report("a request took too long");
                return Err(Stopped::TimedOut);
            }
            outcome = outcome.wait() => outcome,
        };
        match outcome {
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => {
                let failure = Failure::Trapped(format!("{error:#}"));
                self.report(&failure);
                Err(Stopped::Failed(failure))
            }
            Some(Err(failure)) => Err(Stopped::Failed(failure)),
            None => Err(Stopped::Cut),
        }
    }

    /// The life of an instance that answers several requests at once.
    async fn live(self: Arc<Self>, mut inbox: Inbox) {
        let account = Arc::clone(&self.environment.accounts.cpu);
        let life = async {
            let Instance {
                guest,
                mut store,
                refusals,
                _counted,
                ..
            } = self.instance().await?;
            let Guest::P3(guest) = guest else {
                return Ok(());
            };
            let work = async |accessor: &Accessor<State>| inbox.work(accessor, &guest).await;
            let worked = store.run_concurrent(work).await;
            worked.map_err(|error| Stopped::Failed(Failure::of(&error, &refusals)))
        };
        let result = self.runtime.processors.drive(life, &account).await;
        let failure = match result {
            Err(Stopped::Failed(failure)) => Some(failure),
            _ => None,
        };
        if let Some(failure) = &failure {
            self.report(failure);
        }
        inbox.over(failure);
    }

    async fn run(
        &self,
        mut request: Request<WasiBody>,
        give: oneshot::Sender<Given>,
        broken: Broken,
    ) -> Result<(), Stopped> {
        let mut instance = self.instance().await?;
        // Made after the instance, so that it is dropped before: a body must be known to be broken before it ends.
        let breaking = BreakUnlessDone::new(broken);
        self.name_host(&mut request);
        instance.served += 1;
        let store = &mut instance.store;
        let result = match &instance.guest {
            Guest::P2(guest) => guest::ask(store, guest, request, give).await,
            Guest::P3(guest) => guest::ask_async(store, guest, request, give).await,
        };
        let result = result.map_err(|error| match error {
            Unasked::Malformed => Stopped::Malformed,
            Unasked::Failed(error) => Stopped::Failed(Failure::of(&error, &instance.refusals)),
        });
        if let Ok(()) | Err(Stopped::Failed(Failure::Exited(0))) = result {
            breaking.done();
        }
        if result.is_ok() && instance.served < self.reuse && !instance.refusals.any() {
            self.pool.put(instance);
        }
        result
    }

    /// One that waits, or a new one.
    async fn instance(&self) -> Result<Instance, Stopped> {
        if let Some(instance) = self.pool.take() {
            return Ok(instance);
        }
        let counted = self.environment.accounts.count_instance();
        let share = self.runtime.share(&self.environment);
        let refusals = share.refusals();
        let engine = match &self.guest {
            HttpGuest::P2(guest) => guest.engine(),
            HttpGuest::P3(guest) => guest.engine(),
        };
        let mut store = State::store(engine, &self.environment, share);
        let guest = match &self.guest {
            HttpGuest::P2(guest) => guest.instantiate_async(&mut store).await.map(Guest::P2),
            HttpGuest::P3(guest) => guest.instantiate_async(&mut store).await.map(Guest::P3),
        };
        let guest = guest.map_err(|error| Stopped::Failed(Failure::of(&error, &refusals)))?;
        Ok(Instance {
            guest,
            store,
            refusals,
            served: 0,
            _counted: counted,
        })
    }

    /// Old clients need not say whom they ask; guests are always told.
    fn name_host(&self, request: &mut Request<WasiBody>) {
        if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
            let ip = self.environment.network.ip().to_string();
            if let Ok(host) = HeaderValue::try_from(ip) {
                request.headers_mut().insert(header::HOST, host);
            }
        }
    }

    /// The answer to a request that the guest has not answered.
    fn unanswered(&self, result: &Result<(), Stopped>) -> Answer {
        match result {
            Ok(()) | Err(Stopped::Failed(Failure::Exited(_))) => {
                self.environment
                    .report("the handler returned without an answer");
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Err(Stopped::Failed(Failure::Trapped(_) | Failure::OutOfMemory)) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Err(Stopped::Failed(Failure::Full(_)) | Stopped::Cut) => {
                plain(StatusCode::SERVICE_UNAVAILABLE)
            }
            Err(Stopped::Malformed) => plain(StatusCode::BAD_REQUEST),
            Err(Stopped::TimedOut) => plain(StatusCode::GATEWAY_TIMEOUT),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// An answer of the runtime's own. Why it came to that is in the process's log, not for its clients.
fn plain(status: StatusCode) -> Answer {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let mut answer = Response::new(
        Full::from(text)
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
