//! [`ApiServer`]: start, serve, stop.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body};
use futures::FutureExt as _;
use http::Request;
use rustls::ServerConfig;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use vaquita_api::registry::Storage;
use vaquita_auth::tokens::{KeyError, SigningKey};
use vaquita_store::Store;

use crate::{
    BootstrapError, Config, Dialer, LoadError, NodeTransport, User,
    authn::Authenticator,
    serve::{self, ServeError, Trust},
    server::{
        self, Server,
        bootstrap::{self, bootstrap},
        catalog, custom, dispatch,
        events::expire_events,
    },
};
use vaquita_cache::{feed, log::Window};

/// How often what every cluster has is looked after.
const BOOTSTRAP_PERIOD: Duration = Duration::from_secs(30);
/// How often events that the store has given up are dropped from memory too.
const TRIM_PERIOD: Duration = Duration::from_mins(1);

/// Why an API server could not start. Each variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The objects could not be read.
    #[error("cannot load the cluster's objects: {0}")]
    Load(#[from] LoadError),
    /// There was no key for the tokens of service accounts, and none could be made.
    #[error("cannot make a key for the tokens of service accounts: {0}")]
    Key(#[from] KeyError),
    /// What every cluster has could not be made.
    #[error("cannot make what every cluster has: {0}")]
    Bootstrap(#[from] BootstrapError),
}

/// A running API server. It works as long as it is not dropped; [`ApiServer::shutdown`] ends it in good order.
pub struct ApiServer {
    server: Arc<Server>,
    /// Feeding the cache, compacting the store.
    tasks: Mutex<JoinSet<()>>,
}

impl ApiServer {
    /// Reads the objects of `store` into memory and makes what is missing of what every cluster has: the namespaces
    /// `default`, `kube-system`, `kube-public` and `kube-node-lease`, the Service `kubernetes`, the default roles and
    /// bindings, priority classes, flow schemas and priority levels.
    pub async fn start(store: Arc<dyn Store>, mut config: Config) -> Result<Self, StartError> {
        let registry = server::built_in();
        let kept = registry
            .iter()
            .filter(|resource| !matches!(resource.storage, Storage::Nowhere));
        let prefixes = kept.map(|resource| catalog::home(resource));
        // Reading what a cluster begins with takes about as long as reading what is there.
        tokio::task::spawn_blocking(bootstrap::prepare);
        let window = Window {
            events: config.window_events.max(1),
            bytes: config.window_bytes,
        };
        let (cache, watch) = feed::load(store.as_ref(), prefixes, window).await?;
        let cache = Arc::new(cache);
        let history = config.history.max(Duration::from_secs(1));
        if config.service_account_key.is_none() {
            config.service_account_key = Some(SigningKey::generate()?.0);
        }
        let authenticator = std::mem::replace(&mut config.authenticator, Authenticator::new());
        let server = Arc::new(Server::new(
            registry,
            store.clone(),
            cache.clone(),
            authenticator,
            config,
        ));
        let mut tasks = JoinSet::new();
        let following = server.clone();
        tasks.spawn(async move {
            feed::follow(following.cache.clone(), following.store.clone(), watch).await;
            following.lost.store(true, Ordering::Relaxed);
        });
        tasks.spawn(vaquita_store::compact_every(store.clone(), history));
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(TRIM_PERIOD).await;
                cache.trim(store.compacted());
            }
        });
        tasks.spawn(expire_events(server.clone()));
        server.remember_services();
        let definitions = custom::load(&server).await?;
        bootstrap(&server).await?;
        tasks.spawn(custom::follow(server.clone(), definitions));
        tasks.spawn(keep_bootstrapped(server.clone()));
        Ok(Self {
            server,
            tasks: Mutex::new(tasks),
        })
    }

    /// The whole API as a service within this process.
    ///
    /// A request that carries a [`User`] in its extensions is that user's; else it is authenticated by its bearer token.
    pub fn router(&self) -> Router {
        let server = self.server.clone();
        Router::new().fallback(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                // A bug in one handler is one failed request.
                let answer = AssertUnwindSafe(dispatch::dispatch(server, request))
                    .catch_unwind()
                    .await;
                answer.unwrap_or_else(|_| dispatch::panicked())
            }
        })
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Server {
        &self.server
    }

    /// Adds figures of other parts of the process to `/metrics`, in the `OpenMetrics` text format without its end mark. The first
    /// call counts.
    pub fn set_more_metrics(&self, render: impl Fn() -> String + Send + Sync + 'static) {
        let _first_wins = self.server.more_metrics.set(Box::new(render));
    }

    /// Says how pods are reached for `proxy`; until then, over the host's own network.
    pub fn set_dialer(&self, dialer: Arc<dyn Dialer>) {
        *self
            .server
            .dialer
            .write()
            .unwrap_or_else(PoisonError::into_inner) = dialer;
    }

    /// Says how requests reach nodes: from now on, logs can be read and commands run.
    pub fn set_nodes(&self, nodes: Arc<dyn NodeTransport>) {
        *self
            .server
            .nodes
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(nodes);
    }

    /// Serves HTTPS on `listener` until `shutdown` resolves and its connections have ended, or the drain deadline has
    /// passed. `tls` says by which authority clients are known, if any.
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let trust = Trust::Certificate(TlsAcceptor::from(tls));
        serve::serve(
            listener,
            self.router(),
            trust,
            self.server.config.drain,
            shutdown,
        )
        .await;
    }

    /// Serves plain HTTP, in the same way, to anybody who can connect: each of them may do everything. So this is
    /// refused for a `listener` that is not on loopback.
    pub async fn serve_plain(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Address)?;
        if !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback(address));
        }
        let trust = Trust::Everybody(User::in_process("system:unsecured"));
        serve::serve(
            listener,
            self.router(),
            trust,
            self.server.config.drain,
            shutdown,
        )
        .await;
        Ok(())
    }

    /// Ends watches and followed logs, also those within this process, and stops background work. Requests still work
    /// as long as the store does. The store stays open: closing it is its owner's.
    pub async fn shutdown(&self) {
        self.server.closing.cancel();
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

/// Makes again what every cluster has, should somebody delete it.
async fn keep_bootstrapped(server: Arc<Server>) {
    loop {
        tokio::time::sleep(BOOTSTRAP_PERIOD).await;
        if let Err(error) = bootstrap::keep(&server).await {
            tracing::warn!("{error}");
        }
    }
}
