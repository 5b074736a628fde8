//! What every controller gets: the client, the informers and the recorder that all of them share, and the options.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    drive::{Reconciler, drive},
    informer::Informers,
    queue::WorkQueue,
    record::Recorder,
};

/// How the controllers work. The defaults suit a cluster of one to a few hundred nodes.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many objects each controller works on at the same time. Default 16. More costs the API server that many
    /// more requests at once.
    pub workers: usize,
    /// The same for single controllers, by their names: those of upstream, without `-controller` at the end. Default none.
    pub workers_of: BTreeMap<String, usize>,
    /// How many pods one look at a workload may create or delete. Default 500.
    pub replica_burst: usize,
    /// When nodes count as lost, and how fast they are given up.
    pub node_loss: NodeLoss,
    /// How many pods that have ended are kept before the oldest are deleted; 0 keeps all. Default 12,500.
    pub terminated_pods: usize,
    /// How often the garbage collector looks for kinds that came or went. Default 30 s.
    pub discovery_interval: Duration,
    /// The certificate (PEM) by which pods verify the API server; every namespace gets it. Default none: then no namespace
    /// gets one.
    pub root_ca: Option<String>,
    /// What requests for certificates are signed with. Default none: then nobody signs them.
    pub authority: Option<SigningAuthority>,
    /// What signs the tokens that are kept in Secrets. Default none: then such Secrets stay empty.
    pub tokens: Option<TokenSigner>,
    /// What time of day it is. Default: the machine's clock.
    pub clock: Clock,
}

/// When nodes count as lost, and how fast pods are driven off them. The numbers are upstream's.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeLoss {
    /// How long a node may say nothing before it counts as lost. Default 50 s. Shorter than two lease renewals
    /// (2 × 10 s) makes healthy nodes flap.
    pub grace: Duration,
    /// How many nodes of a zone are given up each second. Default 0.1; 0 is none.
    pub rate: f64,
    /// The same in a large zone of which much is lost. Default 0.01; 0 is none.
    pub secondary_rate: f64,
    /// From which share of nodes that are not ready on much of a zone counts as lost, from 0 to 1. Default 0.55. Two nodes
    /// are never much.
    pub unhealthy_zone: f64,
    /// A zone with more nodes than this is large. In a smaller one of which much is lost, no node is given up. Default 50.
    pub large_zone: usize,
}

impl Default for NodeLoss {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(50),
            rate: 0.1,
            secondary_rate: 0.01,
            unhealthy_zone: 0.55,
            large_zone: 50,
        }
    }
}

/// Tells the time of day, which may be set at any moment: only what is compared with times in objects goes by it. How long
/// something lasts is measured by [`tokio::time::Instant`].
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// One that says what `now` does.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

/// Of which account, and for which Secret, a token is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretToken {
    /// The namespace of both.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// The account's name.
    pub account: String,
    /// The account's uid.
    pub uid: String,
}

type Sign = dyn Fn(&SecretToken) -> Result<String, String> + Send + Sync;

/// Signs tokens that are kept in Secrets.
#[derive(Clone)]
pub struct TokenSigner(Arc<Sign>);

impl TokenSigner {
    /// One that signs by `sign`, whose error is for the log.
    pub fn new(
        sign: impl Fn(&SecretToken) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(sign))
    }

    /// A token that says what `of` does.
    pub fn sign(&self, of: &SecretToken) -> Result<String, String> {
        (self.0)(of)
    }
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSigner").finish_non_exhaustive()
    }
}

/// A certificate authority, with the key that it signs by; both as PEM.
#[derive(Clone)]
pub struct SigningAuthority {
    /// One `CERTIFICATE` block.
    pub certificate: String,
    /// One `PRIVATE KEY` block (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for SigningAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningAuthority").finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 16,
            workers_of: BTreeMap::new(),
            replica_burst: 500,
            node_loss: NodeLoss::default(),
            terminated_pods: 12_500,
            discovery_interval: Duration::from_secs(30),
            root_ca: None,
            authority: None,
            tokens: None,
            clock: Clock::default(),
        }
    }
}

impl Options {
    /// How many objects the controller of this name works on at the same time: one at least.
    pub fn workers_of(&self, controller: &str) -> usize {
        let name = controller.strip_suffix("-controller").unwrap_or(controller);
        let own = self.workers_of.get(name).copied();
        own.unwrap_or(self.workers).max(1)
    }
}

/// The surroundings of a controller. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// The shared local copies.
    pub informers: Informers,
    /// How the controllers work.
    pub options: Arc<Options>,
    /// Cancelled when all is to stop.
    pub shutdown: CancellationToken,
    recorder: Recorder,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Surroundings for any number of controllers. Nothing is asked of the API server until one of them starts.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(client: Client, options: Options, shutdown: CancellationToken) -> Self {
        Self {
            informers: Informers::new(client.clone(), shutdown.clone()),
            recorder: Recorder::start(client.clone(), "controller-manager", shutdown.clone()),
            client,
            options: Arc::new(options),
            shutdown,
        }
    }

    /// The time of day; see [`Clock`].
    pub fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Records events in the name of `component`.
    pub fn recorder(&self, component: &'static str) -> Recorder {
        self.recorder.named(component)
    }

    /// Runs a reconciler over a queue with the configured parallelism, until shutdown.
    pub async fn drive<R: Reconciler>(&self, reconciler: Arc<R>, queue: WorkQueue<R::Key>) {
        let workers = self.options.workers_of(R::NAME);
        drive(reconciler, queue, workers, self.shutdown.clone()).await;
    }
}
