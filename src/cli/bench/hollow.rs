//! Simulated nodes: objects that heartbeat, and whose pods are said to run. Nothing runs.
//!
//! All of them share one watch of the pods and a few connections; each has a lease of its own, which is renewed as a
//! kubelet renews it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    load::{self, Call, Work},
    namespace::Namespace,
    objects::{self, HOLLOW},
    stats::Samples,
    target::{Connection, Target},
    watch::Lines,
};

/// Where the leases of nodes are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const NODES: &str = "/api/v1/nodes";
/// How often a node renews its lease, as a kubelet does.
const RENEWAL: Duration = Duration::from_secs(10);
/// Connections through which nodes and leases are made, leases renewed, and pods said to run.
const MAKING: usize = 16;
const RENEWING: usize = 4;
const REPORTING: usize = 8;
/// How many zones they are in.
const ZONES: usize = 10;

/// A set of simulated nodes.
pub(super) struct HollowNodes {
    target: Target,
    set: String,
    /// How long each renewal took.
    renewals: Arc<Mutex<Samples>>,
    progress: Arc<Progress>,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// How far the pods of the simulated nodes are.
#[derive(Debug, Default)]
struct Progress {
    bound: Count,
    running: Count,
}

/// A number that can be waited for.
#[derive(Debug)]
struct Count(watch::Sender<usize>);

impl Default for Count {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Count {
    fn add_one(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    async fn until(&self, count: usize) {
        // The sender is here, so that it does not close.
        let _ = self.0.subscribe().wait_for(|now| *now >= count).await;
    }
}

impl HollowNodes {
    /// Makes so many nodes, with a lease each, and keeps the leases fresh.
    pub(super) async fn register(
        target: &Target,
        namespace: &Namespace,
        count: usize,
    ) -> anyhow::Result<Self> {
        let mut nodes = Self {
            target: target.clone(),
            set: namespace.name().to_owned(),
            renewals: Arc::default(),
            progress: Arc::default(),
            tasks: JoinSet::new(),
        };
        for what in [Made::Lease, Made::Node] {
            let register = Register {
                target: target.clone(),
                set: nodes.set.clone(),
                what,
            };
            load::run(target, MAKING, count, Arc::new(register))
                .await
                .context("cannot make simulated nodes")?;
        }
        nodes.renew_leases(count).await?;
        Ok(nodes)
    }

    /// Renews each lease every [`RENEWAL`], spread evenly over that time.
    async fn renew_leases(&mut self, count: usize) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let start = Instant::now();
        for (worker, mut connection) in self
            .target
            .connect_many(RENEWING)
            .await?
            .into_iter()
            .enumerate()
        {
            let (target, set) = (self.target.clone(), self.set.clone());
            let renewals = Arc::clone(&self.renewals);
            self.tasks.spawn(async move {
                let mut round = 1;
                loop {
                    for number in (worker..count).step_by(RENEWING) {
                        let share =
                            f64::from(u32::try_from(number)?) / f64::from(u32::try_from(count)?);
                        let due = start + RENEWAL * round + RENEWAL.mul_f64(share);
                        tokio::time::sleep_until(due.into()).await;
                        let uri = target.uri(&format!("{LEASES}/{}", name(&set, number)))?;
                        let began = Instant::now();
                        connection
                            .call(Method::PATCH, uri, objects::renewal())
                            .await?;
                        let took = began.elapsed();
                        lock(&renewals).push(took);
                    }
                    round += 1;
                }
            });
        }
        Ok(())
    }

    /// Sees the pods of a namespace from now on, and says that those which are bound run, if `reports`.
    pub(super) async fn follow_pods(
        &mut self,
        namespace: &Namespace,
        reports: bool,
    ) -> anyhow::Result<()> {
        let pods = namespace.path("pods");
        let bound = "&fieldSelector=spec.nodeName!%3D";
        let mut lines = Lines::open_selecting(&self.target, &pods, bound).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let progress = Arc::clone(&self.progress);
        self.tasks.spawn(async move {
            loop {
                let line = lines.next().await?;
                let event: Event<'_> =
                    serde_json::from_slice(&line).context("an event cannot be read")?;
                match (event.kind, event.object.status.phase) {
                    ("ADDED", _) => {
                        progress.bound.add_one();
                        if reports {
                            sender.send(event.object.metadata.name.to_owned())?;
                        }
                    }
                    ("MODIFIED", "Running") => progress.running.add_one(),
                    _ => {}
                }
            }
        });
        self.report_pods(&pods, receiver).await
    }

    async fn report_pods(
        &mut self,
        pods: &str,
        names: mpsc::UnboundedReceiver<String>,
    ) -> anyhow::Result<()> {
        let names = Arc::new(tokio::sync::Mutex::new(names));
        let numbers = Arc::new(AtomicUsize::new(1));
        for mut connection in self.target.connect_many(REPORTING).await? {
            let (target, pods) = (self.target.clone(), pods.to_owned());
            let (names, numbers) = (Arc::clone(&names), Arc::clone(&numbers));
            self.tasks.spawn(async move {
                while let Some(name) = { names.lock().await.recv().await } {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    say_running(&target, &mut connection, &format!("{pods}/{name}"), number)
                        .await?;
                }
                Ok(())
            });
        }
        Ok(())
    }

    /// Waits until so many pods have been bound since they are followed. An error is why they never will be.
    pub(super) async fn until_bound(&mut self, count: usize) -> anyhow::Result<()> {
        let progress = Arc::clone(&self.progress);
        self.unless_it_fails(progress.bound.until(count)).await
    }

    /// Waits until so many pods have been said to run.
    pub(super) async fn until_running(&mut self, count: usize) -> anyhow::Result<()> {
        let progress = Arc::clone(&self.progress);
        self.unless_it_fails(progress.running.until(count)).await
    }

    async fn unless_it_fails(&mut self, done: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = done => Ok(()),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Err(error)) => Err(error.context("a simulated node failed")),
                Ok(Ok(())) | Err(_) => anyhow::bail!("a simulated node ended"),
            }
        }
    }

    /// How long the renewals took since this was asked last.
    pub(super) fn take_renewals(&self) -> Samples {
        std::mem::take(&mut lock(&self.renewals))
    }

    /// Deletes all of them, and their leases.
    pub(super) async fn delete(mut self) -> anyhow::Result<()> {
        self.tasks.shutdown().await;
        let mut connection = self.target.connect().await?;
        for collection in [NODES, LEASES] {
            let path = format!("{collection}?labelSelector={HOLLOW}%3D{}", self.set);
            let uri = self.target.uri(&path)?;
            connection.call(Method::DELETE, uri, Bytes::new()).await?;
        }
        Ok(())
    }
}

async fn say_running(
    target: &Target,
    connection: &mut Connection,
    pod: &str,
    number: usize,
) -> anyhow::Result<()> {
    let uri = target.uri(&format!("{pod}/status"))?;
    let (status, body) = connection
        .exchange(Method::PATCH, uri, objects::running(number))
        .await?;
    // It may have been deleted by now.
    anyhow::ensure!(
        status.is_success() || status == http::StatusCode::NOT_FOUND,
        "{status}: {}",
        super::target::message(&body)
    );
    Ok(())
}

fn lock(samples: &Mutex<Samples>) -> std::sync::MutexGuard<'_, Samples> {
    samples
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn name(set: &str, number: usize) -> String {
    format!("{set}-{number:05}")
}

#[derive(Debug, Clone, Copy)]
enum Made {
    Node,
    Lease,
}

struct Register {
    target: Target,
    set: String,
    what: Made,
}

impl Work for Register {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        let name = name(&self.set, number);
        let (path, body) = match self.what {
            Made::Node => (
                NODES,
                objects::hollow_node(&name, &self.set, number % ZONES),
            ),
            Made::Lease => (LEASES, objects::hollow_lease(&name, &self.set)),
        };
        Ok(Call {
            method: Method::POST,
            uri: self.target.uri(path)?,
            body,
        })
    }
}

/// As much of an event as is of interest. Names and phases have nothing that JSON would escape.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: Pod<'a>,
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize, Default)]
struct Metadata<'a> {
    #[serde(default)]
    name: &'a str,
}

#[derive(Deserialize, Default)]
struct Status<'a> {
    #[serde(default)]
    phase: &'a str,
}
