//! Serves a handler on listeners of its pod's network, with no instance as long as there is no request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use vaquita_net::{Listener, Stream};
use wasmtime_wasi_http::Error;

use super::handler::Handler;
use crate::budget::Purse;
use crate::config::HttpConfig;
use crate::module::HttpGuest;
use crate::process::{Environment, Exit, Orders};
use crate::runtime::Shared;

/// The longest a client may take to send a request's head, or leave its connection idle.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest head of a request, in bytes.
pub(super) const LARGEST_HEAD: usize = 128 << 10;

/// An HTTP handler's process.
pub(crate) struct Server {
    orders: Orders,
    /// Ends everything that is left, at once.
    cut: CancellationToken,
    _cut: DropGuard,
    connections: Connections,
}

/// What it takes to serve a connection.
#[derive(Clone)]
struct Connections {
    handler: Arc<Handler>,
    http: Arc<auto::Builder<TokioExecutor>>,
    /// Who pays for answers that their clients have not read.
    purse: Arc<Purse>,
    places: Arc<Semaphore>,
    /// Listeners, connections and requests.
    tasks: TaskTracker,
    /// No more requests, please.
    draining: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    pub(crate) fn new(
        runtime: Arc<Shared>,
        guest: HttpGuest,
        environment: Arc<Environment>,
        config: &HttpConfig,
        orders: Orders,
    ) -> Self {
        let cut = orders.killed.child_token();
        let tasks = TaskTracker::new();
        let purse = Purse::new(Arc::clone(&environment.accounts.memory));
        let handler = Handler::new(
            runtime,
            guest,
            environment,
            config,
            tasks.clone(),
            cut.clone(),
        );
        let connections = Connections {
            handler: Arc::new(handler),
            http: Arc::new(protocol(config)),
            purse,
            places: Arc::new(Semaphore::new(config.max_connections.max(1))),
            tasks,
            draining: cut.child_token(),
            cut: cut.clone(),
        };
        Self {
            orders,
            _cut: cut.clone().drop_guard(),
            cut,
            connections,
        }
    }

    /// What answers the requests.
    pub(crate) fn handler(&self) -> &Arc<Handler> {
        &self.connections.handler
    }

    /// Lets others in this process ask the handler itself, in place of a connection to this listener.
    pub(crate) fn offer(&self, listener: &Listener) {
        listener.offer(Arc::<Handler>::clone(self.handler()));
    }

    /// Serves until it is told to end. When this returns, nothing is left.
    pub(crate) async fn run(mut self, listeners: Vec<Listener>) -> Exit {
        let draining = self.connections.draining.clone();
        for listener in listeners {
            let accepting = self.connections.clone().accept(listener);
            self.connections
                .tasks
                .spawn(draining.clone().run_until_cancelled_owned(accepting));
        }
        let killed = self.orders.killed.clone();
        let grace = tokio::select! {
            biased;
            () = killed.cancelled() => None,
            grace = self.orders.terminated() => Some(grace),
        };
        draining.cancel();
        let tasks = self.connections.tasks;
        tasks.close();
        let exit = match grace {
            None => Exit::Killed,
            Some(grace) => tokio::select! {
                biased;
                () = tasks.wait() => Exit::Exited(0),
                () = killed.cancelled() => Exit::Killed,
                () = self.orders.grace_over(grace) => Exit::Killed,
            },
        };
        self.cut.cancel();
        tasks.wait().await;
        exit
    }
}

fn protocol(config: &HttpConfig) -> auto::Builder<TokioExecutor> {
    // More of one connection's requests than can be served at once need not even arrive.
    let streams = u32::try_from(config.max_concurrent_requests)
        .unwrap_or(u32::MAX)
        .max(1);
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .half_close(true);
    http.http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
        .max_concurrent_streams(streams);
    http
}

impl Connections {
    /// A connection is accepted only when there is a place for it; until then, it waits in the backlog.
    async fn accept(self, listener: Listener) {
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            let Ok((stream, _peer)) = listener.accept().await else {
                return;
            };
            let connection = self.clone().serve(stream, place);
            self.tasks
                .spawn(self.cut.clone().run_until_cancelled_owned(connection));
        }
    }

    async fn serve(self, stream: Stream, _place: OwnedSemaphorePermit) {
        stream.charge_to(Arc::<Purse>::clone(&self.purse));
        let service = service_fn(|request: Request<Incoming>| {
            let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
            let answer = Arc::clone(&self.handler).handle(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.draining.cancelled() => {
                // From here on, the connection ends after the requests that it has.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients go away as they please.
            tracing::debug!(error, "a connection ended early");
        }
    }
}
