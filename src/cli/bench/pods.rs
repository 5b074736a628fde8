//! `vaquita bench pods`: how soon pods run and answer, and how many a second.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};
use vaquita_docker::Engine;

use super::{
    crowd,
    load::{self, Call, Work},
    namespace::Namespace,
    objects,
    report::{Figure, Report},
    stats::Samples,
    target::{Connection, Target},
    watch::Lines,
};

/// Options of `vaquita bench pods`.
#[derive(Debug, clap::Args)]
pub(super) struct PodsArgs {
    /// Image of the pods: something that answers HTTP. Pull or load it first, unless pulling is to be measured.
    #[arg(long, value_name = "NAME")]
    pub(super) image: String,
    /// Port on which it answers.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(super) port: u16,
    /// Path to request; any answer below 500 counts.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Address of a node, at which node ports can be reached [default: the API server's host].
    #[arg(long, value_name = "HOST")]
    node_address: Option<String>,
    /// Pods to start one after another, to see how long one takes.
    #[arg(long, value_name = "N", default_value_t = 20)]
    single: usize,
    /// Pods to start all at once, to see how many a second run.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pods: usize,
    /// Connections through which those are created.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Pods to start at a steady pace, to see how long each takes to be Ready.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub(super) paced: usize,
    /// How many of those are created in each second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pace: u32,
    /// Pods of one ReplicationController, to see how long it takes until all of them run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) replicas: usize,
    /// Docker engine of the node: also see how long it takes by itself for what a pod is, a container and one that joins it,
    /// both of the image.
    #[arg(long, value_name = "ADDRESS")]
    docker: Option<String>,
    /// Network of that engine for these containers: the one that pods are on.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "vaquita",
        requires = "docker"
    )]
    docker_network: String,
    /// How long one step may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(super) timeout: u64,
}

/// How long to wait between two attempts to reach a pod.
const RETRY: Duration = Duration::from_millis(1);
/// How long one attempt may take: a connection may be accepted by something that then cannot go on.
const ATTEMPT: Duration = Duration::from_secs(1);

pub(super) async fn run(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    namespace.wait_until_pods_are_admitted(target).await?;
    if args.single > 0 {
        one_by_one(args, target, namespace, report).await?;
    }
    if let Some(address) = &args.docker {
        by_the_engine(args, address, report).await?;
    }
    if args.pods > 0 {
        all_at_once(args, target, namespace, report).await?;
    }
    if args.paced > 0 {
        crowd::paced(args, target, namespace, report).await?;
    }
    if args.replicas > 0 {
        crowd::replicated(args, target, namespace, report).await?;
    }
    Ok(())
}

async fn one_by_one(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut running = Samples::with_capacity(args.single);
    let mut answered = Samples::with_capacity(args.single);
    let mut single = Single {
        args,
        target,
        namespace,
        watch: PodWatch::open(target, namespace).await?,
        connection: target.connect().await?,
    };
    let start = Instant::now();
    for number in 0..args.single {
        report.progress(&format!("pod {} of {}", number + 1, args.single));
        let name = format!("single-{number}");
        let step = timeout(Duration::from_secs(args.timeout), single.start(&name));
        let (run, answer) = step
            .await
            .context("a pod took too long to run and to answer")??;
        running.push(run);
        answered.push(answer);
    }
    let took = start.elapsed();
    report.add(Figure::latency("pod created to Running", 1, running, took));
    report.add(Figure::latency(
        "pod created to first HTTP answer",
        1,
        answered,
        took,
    ));
    Ok(())
}

/// What the engine takes without anybody's help.
async fn by_the_engine(args: &PodsArgs, address: &str, report: &mut Report) -> anyhow::Result<()> {
    let engine = Engine::connect(address).await?;
    let mut samples = Samples::with_capacity(args.single);
    let start = Instant::now();
    for number in 0..args.single.max(1) {
        report.progress(&format!("engine alone, {} of {}", number + 1, args.single));
        samples.push(
            engine
                .time_of_a_pod(&args.image, &args.docker_network)
                .await?,
        );
    }
    let work = "two containers started by the engine alone";
    report.add(Figure::latency(work, 1, samples, start.elapsed()));
    Ok(())
}

/// One pod after another, each with a Service of its own, so that no answer comes from an older one.
struct Single<'a> {
    args: &'a PodsArgs,
    target: &'a Target,
    namespace: &'a Namespace,
    watch: PodWatch,
    connection: Connection,
}

impl Single<'_> {
    /// How long a new pod takes to run, and to answer.
    async fn start(&mut self, name: &str) -> anyhow::Result<(Duration, Duration)> {
        let PodsArgs {
            image,
            port,
            path,
            node_address,
            ..
        } = self.args;
        let host = node_address.as_deref().unwrap_or(self.target.host());
        let (services, pods) = (self.namespace.path("services"), self.namespace.path("pods"));
        let service = objects::node_port_service(name, *port);
        let (_, service) = self
            .connection
            .call(Method::POST, self.target.uri(&services)?, service)
            .await?;
        let node_port = node_port(&service)?;

        let pod = objects::running_pod(name, image, *port);
        let uri = self.target.uri(&pods)?;
        let start = Instant::now();
        self.connection.call(Method::POST, uri, pod).await?;
        let (running, answered) = tokio::try_join!(
            async {
                self.watch
                    .until_running(HashSet::from([name.to_owned()]))
                    .await?;
                anyhow::Ok(start.elapsed())
            },
            async {
                until_answered(host, node_port, path).await;
                anyhow::Ok(start.elapsed())
            },
        )?;
        for collection in [services, pods] {
            let uri = self.target.uri(&format!("{collection}/{name}"))?;
            self.connection
                .call(Method::DELETE, uri, Bytes::new())
                .await?;
        }
        Ok((running, answered))
    }
}

async fn all_at_once(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut watch = PodWatch::open(target, namespace).await?;
    report.progress(&format!("{} pods at once", args.pods));
    let create = Arc::new(CreatePods {
        target: target.clone(),
        collection: namespace.path("pods"),
        image: args.image.clone(),
        port: args.port,
    });
    let names = (0..args.pods).map(CreatePods::name).collect();
    let connections = usize::from(args.connections);
    let start = Instant::now();
    let (run, ()) = timeout(Duration::from_secs(args.timeout), async {
        tokio::try_join!(
            load::run(target, connections, args.pods, create),
            watch.until_running(names)
        )
    })
    .await
    .context("the pods took too long to run")??;
    report.add(Figure::throughput(
        "pods to Running",
        run.connections,
        args.pods,
        start.elapsed(),
    ));
    Ok(())
}

struct CreatePods {
    target: Target,
    collection: String,
    image: String,
    port: u16,
}

impl CreatePods {
    fn name(number: usize) -> String {
        format!("many-{number}")
    }
}

impl Work for CreatePods {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        let body = objects::running_pod(&Self::name(number), &self.image, self.port);
        Ok(Call {
            method: Method::POST,
            uri: self.target.uri(&self.collection)?,
            body,
        })
    }
}

/// The pods of the namespace as they change.
pub(super) struct PodWatch(Lines);

impl PodWatch {
    pub(super) async fn open(target: &Target, namespace: &Namespace) -> anyhow::Result<Self> {
        Ok(Self(Lines::open(target, &namespace.path("pods")).await?))
    }

    /// Waits until all of these pods have been Running. A pod that cannot run is an error.
    async fn until_running(&mut self, mut waiting: HashSet<String>) -> anyhow::Result<()> {
        while !waiting.is_empty() {
            let line = self.0.next().await?;
            let event: Event = serde_json::from_slice(&line).context("an event cannot be read")?;
            let Pod { metadata, status } = event.object;
            if !waiting.contains(&metadata.name) {
                continue;
            }
            match state(&status) {
                State::Running => waiting.remove(&metadata.name),
                State::Hopeless(why) => bail!("the pod {} does not run: {why}", metadata.name),
                State::Waiting => false,
            };
        }
        Ok(())
    }
}

impl PodWatch {
    /// The next change of a pod. A pod that cannot run is an error.
    async fn next(&mut self) -> anyhow::Result<Pod> {
        let line = self.0.next().await?;
        let event: Event = serde_json::from_slice(&line).context("an event cannot be read")?;
        let pod = event.object;
        if let State::Hopeless(why) = state(&pod.status) {
            bail!("the pod {} does not run: {why}", pod.metadata.name);
        }
        Ok(pod)
    }

    /// The name of the next pod that is Ready; it may be told more than once.
    pub(super) async fn next_ready(&mut self) -> anyhow::Result<String> {
        loop {
            let Pod { metadata, status } = self.next().await?;
            let ready = |it: &Condition| it.kind == "Ready" && it.status == "True";
            if status.conditions.iter().any(ready) {
                return Ok(metadata.name);
            }
        }
    }

    /// Waits until so many pods whose names begin with `prefix` have been Running.
    pub(super) async fn until_so_many_run(
        &mut self,
        prefix: &str,
        count: usize,
    ) -> anyhow::Result<()> {
        let mut running = HashSet::new();
        while running.len() < count {
            let Pod { metadata, status } = self.next().await?;
            if metadata.name.starts_with(prefix) && state(&status) == State::Running {
                running.insert(metadata.name);
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize)]
struct Event {
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    state: ContainerState,
}

#[derive(Deserialize, Default)]
struct ContainerState {
    waiting: Option<Waiting>,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// It will not run, and why.
    Hopeless(String),
}

fn state(status: &Status) -> State {
    let hopeless = |waiting: &&Waiting| {
        let reason = waiting.reason.as_str();
        reason.ends_with("BackOff") || reason.starts_with("Err") || reason.starts_with("Invalid")
    };
    let mut waiting = status
        .container_statuses
        .iter()
        .filter_map(|container| container.state.waiting.as_ref());
    match (waiting.find(hopeless), status.phase.as_str()) {
        (Some(Waiting { reason, message }), _) => State::Hopeless(format!("{reason}: {message}")),
        (None, "Running") => State::Running,
        (None, phase @ ("Succeeded" | "Failed")) => State::Hopeless(format!("it is {phase}")),
        (None, _) => State::Waiting,
    }
}

fn node_port(service: &[u8]) -> anyhow::Result<u16> {
    #[derive(Deserialize)]
    struct Service {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        ports: Vec<Port>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Port {
        node_port: u16,
    }
    let service: Service =
        serde_json::from_slice(service).context("the Service has no node port")?;
    let port = service
        .spec
        .ports
        .first()
        .context("the Service has no port")?;
    Ok(port.node_port)
}

/// Requests `path` until there is an answer.
async fn until_answered(host: &str, port: u16, path: &str) {
    loop {
        match timeout(ATTEMPT, attempt(host, port, path)).await {
            Ok(Ok(())) => return,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn attempt(host: &str, port: u16, path: &str) -> anyhow::Result<()> {
    let tcp = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, host)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await;
    connection.abort();
    let status = response?.status();
    anyhow::ensure!(!status.is_server_error(), "{status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(status: &str) -> State {
        state(&serde_json::from_str(status).unwrap())
    }

    #[test]
    fn a_pod_runs_waits_or_never_will() {
        assert_eq!(state_of("{}"), State::Waiting);
        assert_eq!(state_of(r#"{"phase":"Pending"}"#), State::Waiting);
        assert_eq!(
            state_of(
                r#"{"phase":"Pending","containerStatuses":[{"state":{"waiting":{"reason":"ContainerCreating"}}}]}"#
            ),
            State::Waiting
        );
        assert_eq!(
            state_of(r#"{"phase":"Running","containerStatuses":[{"state":{"running":{}}}]}"#),
            State::Running
        );
        assert_eq!(
            state_of(
                r#"{"phase":"Pending","containerStatuses":[{"state":{"waiting":{"reason":"ErrImagePull","message":"no"}}}]}"#
            ),
            State::Hopeless("ErrImagePull: no".to_owned())
        );
        assert!(matches!(
            state_of(r#"{"phase":"Failed"}"#),
            State::Hopeless(_)
        ));
    }

    #[test]
    fn the_node_port_is_found() {
        assert_eq!(
            node_port(br#"{"spec":{"ports":[{"port":80,"nodePort":31000}]}}"#).unwrap(),
            31000
        );
        assert!(node_port(br#"{"spec":{"ports":[{"port":80}]}}"#).is_err());
    }
}
