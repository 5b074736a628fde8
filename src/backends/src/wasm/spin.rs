//! Runs Spin applications: a process for each component, and before them what answers on the pod's port and finds, by the
//! request's path, the component that it is for.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join_all, select_all};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use vaquita_image::{FileSource, Image, ImageFiles, PlacedFile};
use vaquita_net::{Listener, PodNetwork, Stream};
use vaquita_runtime::{
    BodyError, Capabilities, Destination, KeyValue, LogSink, MemoryStore, ModuleKind, Mount,
    OutputSink, Process, ProcessConfig,
};
use vaquita_spin::{Application, Component, Content, File, Hosts, Routes, Values, VariableError};

use super::{WasmBackend, WasmSandbox, root, set_http};
use crate::{
    ContainerConfig, Exit, Grants, HttpSettings, Instance, Resources, StartError, Usage,
    with_causes,
};

/// Where an application answers, if its pod does not say.
const PORT: u16 = 80;
/// Connections of one application at a time; more wait.
const CONNECTIONS: usize = 1024;
/// How long a request's head may take, and how large it may be, in bytes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const LARGEST_HEAD: usize = 64 << 10;
/// Bytes that each key-value store of an application may hold. They are in memory.
const MOST_STORED: u64 = 64 << 20;
/// Variables of an application are set by such variables of the environment.
const VARIABLES: &str = "SPIN_VARIABLE_";
/// Headers of the host's own, which no client may set.
const HEADERS: &str = "spin-";

type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What a component is started with, one like the other.
struct Shared<'s> {
    sandbox: &'s WasmSandbox,
    image: &'s Image,
    name: String,
    grants: Grants,
    env: Vec<(String, String)>,
    memory_limit: Option<u64>,
    cpu_limit: Option<u32>,
    cpu_request: Option<u32>,
    http: HttpSettings,
    mounts: Vec<Mount>,
    working_dir: Option<String>,
    values: Values,
    output: Option<Arc<dyn OutputSink>>,
    log: Arc<dyn LogSink>,
}

/// Starts all components of an application, and what is before them.
pub(super) async fn start(
    sandbox: &WasmSandbox,
    image: &Image,
    container: ContainerConfig,
) -> Result<Box<dyn Instance>, StartError> {
    let Some(declared) = container.ports else {
        let message = "a Spin application serves HTTP: it cannot be executed as a command";
        return Err(StartError::Create(message.to_owned()));
    };
    let images = sandbox.backend.images.clone();
    let described = image.clone();
    let description = blocking(move || images.description(&described)).await?;
    let application = Application::from_json(&description)
        .map_err(|error| StartError::Create(with_causes(&error)))?;
    let values = application.values(|name| {
        let found = container.env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    });
    let shared = Shared {
        sandbox,
        values,
        image,
        name: container.name,
        grants: container.grants,
        env: container.env,
        memory_limit: container.memory_limit,
        cpu_limit: container.cpu_limit,
        cpu_request: container.cpu_request,
        http: container.http,
        mounts: container.mounts,
        working_dir: container.working_dir,
        output: container.output,
        log: container.log,
    };
    let mut configs = Vec::new();
    let mut files = Vec::new();
    for component in &application.components {
        let (config, dir) = shared.config(component).await?;
        configs.push(config);
        files.extend(dir);
    }
    // Before anything runs: a port that is taken is found out in time.
    let listeners = listeners(&sandbox.network, &declared, shared.http.port)?;
    let mut processes: Vec<Process> = Vec::new();
    for config in configs {
        match sandbox.pod.start(config).await {
            Ok(process) => processes.push(process),
            Err(error) => {
                processes.iter().for_each(Process::kill);
                return Err(StartError::Run(with_causes(&error)));
            }
        }
    }
    let running = Running {
        processes: Arc::new(processes),
        stop: CancellationToken::new(),
        _files: files,
    };
    let entrance = Arc::new(Entrance {
        processes: running.processes.clone(),
        routes: application.routes,
        places: Arc::new(Semaphore::new(CONNECTIONS)),
        stop: running.stop.clone(),
    });
    for listener in listeners {
        tokio::spawn(entrance.clone().accept(listener));
    }
    Ok(Box::new(running))
}

impl WasmBackend {
    /// Compiles all modules of an application, so that they are in the cache when a container needs them.
    pub(super) async fn prepare_application(&self, image: Image) {
        let (images, described) = (self.images.clone(), image.clone());
        let Ok(description) = blocking(move || images.description(&described)).await else {
            return;
        };
        let Ok(application) = Application::from_json(&description) else {
            return;
        };
        for component in application.components {
            let (images, image) = (self.images.clone(), image.clone());
            if let Ok(wasm) = blocking(move || images.part(&image, &component.module)).await {
                // What fails is told to whoever starts it.
                let _ = self.loaded(wasm.into()).await;
            }
        }
    }
}

/// Work on files, on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, vaquita_image::ImageError> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| StartError::Create(with_causes(&error))),
        Err(_) => Err(StartError::Create("the node is shutting down".to_owned())),
    }
}

fn listeners(
    network: &PodNetwork,
    declared: &[u16],
    wanted: Option<u16>,
) -> Result<Vec<Listener>, StartError> {
    let ports = match (wanted, declared) {
        (Some(port), _) => vec![port],
        (None, []) => vec![PORT],
        (None, declared) => declared.to_vec(),
    };
    let listen = |port| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = network.listen(address);
        listener.map_err(|error| StartError::Run(format!("listening on port {port}: {error}")))
    };
    ports.into_iter().map(listen).collect()
}

impl Shared<'_> {
    /// What to run for a component, and the directory of its files, if it has any.
    async fn config(
        &self,
        component: &Component,
    ) -> Result<(ProcessConfig, Option<ImageFiles>), StartError> {
        let (images, image) = (self.sandbox.backend.images.clone(), self.image.clone());
        let digest = component.module.clone();
        let wasm = blocking(move || images.part(&image, &digest)).await?;
        let module = self.sandbox.backend.loaded(wasm.into()).await?;
        let id = &component.id;
        if module.kind() != ModuleKind::HttpHandler {
            return Err(StartError::Create(format!(
                "the component {id:?} does not export wasi:http/incoming-handler"
            )));
        }
        let granted = self.grants.check(module.imports());
        granted.map_err(StartError::Create)?;
        let name = format!("{}/{}", self.name, component.id);
        let mut config = ProcessConfig::new(name, module);
        config.container = Some(self.name.clone());
        config.env = environment(component, &self.env);
        config.memory_limit = self.memory_limit;
        config.cpu_limit = self.cpu_limit;
        config.cpu_request = self.cpu_request;
        config.log = self.log.clone();
        config.output = self.output.clone();
        config.mounts = self.mounts.clone();
        config.working_dir = self.working_dir.clone();
        let of_component = |error: VariableError| {
            StartError::Create(format!("the component {id:?}: {}", with_causes(&error)))
        };
        let hosts = component.hosts(&self.values).map_err(of_component)?;
        config.capabilities = capabilities(&self.grants, &hosts);
        let values = component.variables(&self.values).map_err(of_component)?;
        config.settings.values = values;
        config.settings.stores = self.stores(component);
        // Requests come by way of the entrance.
        config.listen = Vec::new();
        set_http(&mut config.http, &self.http);
        let files = self.files(component).await?;
        config.root = files.as_ref().map(root).transpose()?;
        Ok((config, files))
    }

    async fn files(&self, component: &Component) -> Result<Option<ImageFiles>, StartError> {
        if component.files.is_empty() {
            return Ok(None);
        }
        let (images, image) = (self.sandbox.backend.images.clone(), self.image.clone());
        let files: Vec<_> = component.files.iter().map(placed).collect();
        let place = move || images.placed_files(&image, &files);
        blocking(place).await.map(Some)
    }

    /// The stores that a component may open. Components of one application have them in common, and they stay as long as the
    /// pod does.
    fn stores(&self, component: &Component) -> BTreeMap<String, Arc<dyn KeyValue>> {
        let stores = self.sandbox.stores.lock();
        let mut stores = stores.unwrap_or_else(PoisonError::into_inner);
        let mut open = |label: &String| {
            let store = stores.entry((self.name.clone(), label.clone()));
            let store = store.or_insert_with(|| Arc::new(MemoryStore::new(MOST_STORED)));
            (label.clone(), store.clone() as Arc<dyn KeyValue>)
        };
        component.stores.iter().map(&mut open).collect()
    }
}

fn placed(file: &File) -> PlacedFile {
    PlacedFile {
        source: match &file.content {
            Content::Digest(digest) => FileSource::Digest(digest.clone()),
            Content::Bytes(bytes) => FileSource::Bytes(bytes.clone()),
        },
        path: file.path.clone(),
    }
}

/// What both a component's description and the namespace's policies allow.
fn capabilities(grants: &Grants, hosts: &Hosts) -> Capabilities {
    let mut capabilities = grants.capabilities();
    let names = hosts.http.iter().map(|host| split_port(host).0.to_owned());
    let names: Vec<String> = names.collect();
    capabilities.names = Some(narrowed(&names, capabilities.names.as_deref()));
    capabilities.hosts = Some(narrowed(&hosts.http, capabilities.hosts.as_deref()));
    let sockets = hosts.sockets.iter().map(|allowed| Destination {
        tcp: allowed.tcp,
        network: allowed.network,
        ports: allowed.ports.clone(),
    });
    capabilities.destinations = Some(sockets.collect());
    capabilities
}

/// The component's own environment, unless the pod says otherwise. What the application's variables are is no part of it: not every
/// component is meant to know all of them.
fn environment(component: &Component, pod: &[(String, String)]) -> Vec<(String, String)> {
    let own = component.env.iter();
    let own = own.filter(|(name, _)| pod.iter().all(|(known, _)| known != *name));
    let own = own.map(|(name, value)| (name.clone(), value.clone()));
    let pods = pod.iter().filter(|(name, _)| !name.starts_with(VARIABLES));
    own.chain(pods.cloned()).collect()
}

/// The hosts that both a component's description and the namespace's policies allow. Of patterns that overlap in part, nothing
/// is left.
fn narrowed(own: &[String], policies: Option<&[String]>) -> Vec<String> {
    let Some(policies) = policies else {
        return own.to_vec();
    };
    let covers = |wide: &str, narrow: &str| {
        let ((wide_name, wide_port), (name, port)) = (split_port(wide), split_port(narrow));
        let has_name = match wide_name.strip_prefix('*') {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => wide_name == name,
        };
        wide == narrow || has_name && (wide_port.is_none() || wide_port == port)
    };
    let is_allowed = |own: &&String| policies.iter().any(|wide| covers(wide, own));
    own.iter().filter(is_allowed).cloned().collect()
}

fn split_port(pattern: &str) -> (&str, Option<&str>) {
    match pattern.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (pattern, None),
    }
}

/// What answers on the pod's ports.
struct Entrance {
    processes: Arc<Vec<Process>>,
    routes: Routes<usize>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Entrance {
    async fn accept(self: Arc<Self>, listener: Listener) {
        let work = async {
            while let Ok(place) = self.places.clone().acquire_owned().await {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                let entrance = self.clone();
                tokio::spawn(async move {
                    entrance.serve(stream, peer).await;
                    drop(place);
                });
            }
        };
        self.stop.run_until_cancelled(work).await;
    }

    async fn serve(self: Arc<Self>, stream: Stream, peer: SocketAddr) {
        let mut protocol = auto::Builder::new(TokioExecutor::new());
        protocol
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(LARGEST_HEAD)
            .half_close(true);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX));
        let entrance = self.clone();
        let service = service_fn(move |request| {
            let entrance = entrance.clone();
            async move { Ok::<_, Infallible>(entrance.answer(request, peer).await) }
        });
        let connection = protocol.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients go away as they please.
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let Some(found) = self.routes.find(&path) else {
            return plain(StatusCode::NOT_FOUND);
        };
        let mut told = vec![
            ("path-info".to_owned(), found.rest.clone()),
            ("raw-component-route".to_owned(), found.route.to_owned()),
            ("component-route".to_owned(), found.base.to_owned()),
            ("matched-route".to_owned(), found.route.to_owned()),
            ("base-path".to_owned(), "/".to_owned()),
            ("full-url".to_owned(), full_url(&request)),
            ("client-addr".to_owned(), peer.to_string()),
        ];
        let segments = found.segments.into_iter();
        told.extend(segments.map(|(name, value)| (format!("path-match-{name}"), value)));
        tell(&mut request, told);
        match self.processes.get(*found.target) {
            Some(process) => match process.request(request).await {
                Ok(answer) => answer,
                Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE),
            },
            None => plain(StatusCode::NOT_FOUND),
        }
    }
}

/// The address that was asked for, as far as it is known here.
fn full_url(request: &Request<Incoming>) -> String {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let mut url = String::from("http://");
    let path = request.uri().path_and_query();
    // Writing to a string cannot fail.
    let _ = write!(
        url,
        "{}{}",
        authority.or(host).unwrap_or("localhost"),
        path.map_or("/", http::uri::PathAndQuery::as_str)
    );
    url
}

/// Sets the host's own headers, in place of any that a client has sent.
fn tell<B>(request: &mut Request<B>, told: Vec<(String, String)>) {
    let headers = request.headers_mut();
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(HEADERS))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    for (name, value) in told {
        let name = HeaderName::try_from(format!("{HEADERS}{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let body = Full::from(text).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// An application that runs.
struct Running {
    processes: Arc<Vec<Process>>,
    stop: CancellationToken,
    _files: Vec<ImageFiles>,
}

#[async_trait]
impl Instance for Running {
    async fn wait(&self) -> Exit {
        let waits = self
            .processes
            .iter()
            .map(|process| Box::pin(process.wait()));
        let (first, _, _) = select_all(waits).await;
        // One component less is no application any more.
        self.stop.cancel();
        if !matches!(first, vaquita_runtime::Exit::Exited(0)) {
            self.kill();
        }
        join_all(self.processes.iter().map(Process::wait)).await;
        first.into()
    }

    fn terminate(&self, grace: Duration) {
        self.stop.cancel();
        for process in self.processes.iter() {
            process.terminate(grace);
        }
    }

    fn kill(&self) {
        self.stop.cancel();
        self.processes.iter().for_each(Process::kill);
    }

    async fn resize(&self, resources: Resources) -> Result<(), String> {
        for process in self.processes.iter() {
            process
                .set_limits(
                    resources.memory_limit,
                    resources.cpu_limit,
                    resources.cpu_request,
                )
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn usage(&self) -> Usage {
        let usages = self.processes.iter().map(Process::usage);
        usages.fold(Usage::default(), |sum, usage| Usage {
            cpu: sum.cpu + usage.cpu,
            memory: sum.memory + usage.memory,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_may_call_what_its_description_and_the_policies_allow() {
        let own = ["a.example:443", "b.example", "*.c.example:80", "*"].map(str::to_owned);
        let narrowed = |policies: &[&str]| {
            let policies: Vec<String> = policies.iter().map(|&it| it.to_owned()).collect();
            narrowed(&own, Some(&policies))
        };
        assert_eq!(super::narrowed(&own, None), own);
        assert_eq!(narrowed(&["*"]), own);
        assert_eq!(narrowed(&["a.example"]), ["a.example:443"]);
        assert_eq!(narrowed(&["*.example"]), own[..3]);
        assert_eq!(narrowed(&["b.example:443"]), Vec::<String>::new());
        assert_eq!(narrowed(&["*.c.example"]), ["*.c.example:80"]);
    }

    #[test]
    fn no_client_tells_a_component_what_the_host_tells() {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        headers.insert("spin-client-addr", HeaderValue::from_static("forged"));
        headers.insert("spin-other", HeaderValue::from_static("forged"));
        headers.insert("accept", HeaderValue::from_static("text/plain"));
        let address = ("client-addr".to_owned(), "10.0.0.1:5".to_owned());
        tell(
            &mut request,
            vec![address, ("path-info".to_owned(), "a\nb".to_owned())],
        );
        let headers = request.headers();
        assert_eq!(headers["spin-client-addr"], "10.0.0.1:5");
        assert_eq!(headers.len(), 2, "{headers:?}");
    }
}
