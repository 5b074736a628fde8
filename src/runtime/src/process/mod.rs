//! One module running in a pod.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vaquita_net::{Listener, PodNetwork};

use crate::budget::Budget;
use crate::capabilities::Capabilities;
use crate::http::{Handler, Server, Tls};
use crate::log::LogStream;
use crate::module::{Code, Module, Program};
use crate::namespaces::{Lifecycle, Listed, Member, Namespaces};
use crate::pod::PodConfig;
use crate::runtime::Shared;
use crate::settings::Settings;
use crate::stdio::{Outputs, Stdin};
use vaquita_guest_fs::Files;

mod config;
mod exit;
mod program;
mod request;
mod threads;

pub use config::{ProcessConfig, StartError};
pub use exit::{Exit, OverLimit, Usage};
pub use request::{BodyError, RequestError, ResponseBody};

pub(crate) use exit::Failure;
pub(crate) use threads::Threads;

/// What every instance of a process is given.
pub(crate) struct Environment {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) network: PodNetwork,
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) listen: Vec<u16>,
    pub(crate) max_threads: u32,
    pub(crate) stdin: Stdin,
    pub(crate) outputs: Outputs,
    pub(crate) working_dir: Option<String>,
    /// None if it is given none.
    pub(crate) files: Option<Arc<Files>>,
    pub(crate) member: Arc<Member>,
    pub(crate) accounts: Arc<Accounts>,
}

impl Environment {
    fn new(
        runtime: &Shared,
        (pod, namespaces): (&PodConfig, &Arc<Namespaces>),
        config: &mut ProcessConfig,
        files: Option<Arc<Files>>,
    ) -> Self {
        let mut args = std::mem::take(&mut config.args);
        if args.is_empty() {
            args.push(config.name.clone());
        }
        let mut env = std::mem::take(&mut config.env);
        if !env.iter().any(|(name, _)| name == "HOSTNAME") {
            env.push(("HOSTNAME".into(), pod.hostname.clone()));
        }
        if let Some(directory) = &config.working_dir
            && !env.iter().any(|(name, _)| name == "PWD")
        {
            env.push(("PWD".into(), directory.clone()));
        }
        let container = config.container.take();
        let container = container.unwrap_or_else(|| config.name.clone());
        Self {
            member: namespaces.member(container, args.clone()),
            args,
            env,
            network: pod.network.clone(),
            capabilities: Arc::new(std::mem::take(&mut config.capabilities)),
            settings: Arc::new(std::mem::take(&mut config.settings)),
            tls: Arc::clone(&runtime.tls),
            listen: config.listen.clone(),
            max_threads: config.max_threads,
            stdin: Stdin::new(config.stdin.take(), config.tty),
            outputs: Outputs {
                log: Arc::clone(&config.log),
                attached: config.output.take(),
                tty: config.tty,
            },
            working_dir: config.working_dir.take(),
            files,
            accounts: Accounts::new(config),
        }
    }

    /// Tells the process's log what its guest can't say any more.
    pub(crate) fn report(&self, message: &str) {
        for line in message.lines() {
            self.outputs
                .log
                .write(LogStream::Stderr, format!("{line}\n").as_bytes());
        }
    }
}

/// What all instances of a process use together.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) memory: Arc<Budget>,
    pub(crate) cpu: Arc<vaquita_guest_cpu::Account>,
    pub(crate) instances: AtomicU64,
    pub(crate) requests: AtomicU64,
}

impl Accounts {
    fn new(config: &ProcessConfig) -> Arc<Self> {
        Arc::new(Self {
            memory: Budget::new(config.memory_limit),
            cpu: vaquita_guest_cpu::Account::new(config.cpu_limit, config.cpu_request),
            instances: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// Counts an instance as long as the result lives.
    pub(crate) fn count_instance(self: &Arc<Self>) -> Counted {
        self.instances.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }
}

/// See [`Accounts::count_instance`].
pub(crate) struct Counted(Arc<Accounts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a process is asked to end.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Ended at once, wherever it is.
    pub(crate) killed: CancellationToken,
    /// The grace that was granted, once the end is wanted.
    pub(crate) terminated: watch::Receiver<Option<Duration>>,
}

impl Orders {
    /// Waits for [`Process::terminate`].
    pub(crate) async fn terminated(&mut self) -> Duration {
        if self.terminated.wait_for(Option::is_some).await.is_err() {
            // Nobody is left who could ask for it; being killed is all that can happen.
            return std::future::pending().await;
        }
        self.terminated.borrow_and_update().unwrap_or_default()
    }

    /// Waits until `grace` is over, or the shorter one that is granted meanwhile.
    pub(crate) async fn grace_over(&mut self, grace: Duration) {
        let mut end = Instant::now().checked_add(grace);
        loop {
            let over = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                grace = next(&mut self.terminated) => {
                    let sooner = Instant::now().checked_add(grace);
                    end = [end, sooner].into_iter().flatten().min();
                }
            }
        }
    }
}

/// The next grace that is granted.
async fn next(terminated: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match terminated.changed().await {
        Ok(()) => terminated.borrow_and_update().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

/// One module running in a pod. Cheap to clone; it runs on when all clones are dropped, until its pod ends.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    id: u32,
    lifecycle: Arc<Lifecycle>,
    accounts: Arc<Accounts>,
    listening: Vec<SocketAddr>,
    /// What answers requests, as long as it runs.
    handler: Weak<Handler>,
    killed: CancellationToken,
    terminated: watch::Sender<Option<Duration>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    pub(crate) fn start(
        runtime: &Arc<Shared>,
        (pod, namespaces, pod_ended): (&PodConfig, &Arc<Namespaces>, &CancellationToken),
        mut config: ProcessConfig,
        files: Option<Arc<Files>>,
    ) -> Result<Self, StartError> {
        if let Some(import) = config.capabilities.refused(config.module.imports()) {
            return Err(StartError::NotGranted {
                import: import.to_owned(),
                granted_by: config.capabilities.granted_by.clone(),
            });
        }
        let environment = Arc::new(Environment::new(
            runtime,
            (pod, namespaces),
            &mut config,
            files,
        ));
        let member = Arc::clone(&environment.member);
        let (terminated, orders) = watch::channel(None);
        let orders = Orders {
            killed: pod_ended.child_token(),
            terminated: orders,
        };
        let (exited, exit) = watch::channel(None);
        let killed = orders.killed.clone();
        let (running, listening, handler) = match &config.module.inner.code {
            Code::HttpHandler(guest) => {
                let listeners = listen(&pod.network, &config.listen)?;
                let listening = listeners.iter().map(Listener::local_addr).collect();
                let (runtime, guest) = (Arc::clone(runtime), guest.clone());
                let environment = Arc::clone(&environment);
                let server = Server::new(runtime, guest, environment, &config.http, orders);
                for listener in &listeners {
                    server.offer(listener);
                }
                let handler = Arc::downgrade(server.handler());
                (server.run(listeners).boxed(), listening, handler)
            }
            Code::Program(program) => {
                let (runtime, environment) = (Arc::clone(runtime), Arc::clone(&environment));
                let module = config.module.clone();
                let program = run(runtime, (module, program.clone()), environment, orders);
                (program.boxed(), Vec::new(), Weak::new())
            }
        };
        let inner = Inner {
            name: config.name.clone(),
            id: member.id,
            lifecycle: Arc::clone(&member.lifecycle),
            accounts: Arc::clone(&environment.accounts),
            listening,
            handler,
            killed,
            terminated,
            exit,
        };
        let process = Self {
            inner: Arc::new(inner),
        };
        // Before it runs: it may look for itself.
        namespaces.list(Listed {
            member,
            process: process.clone(),
        });
        runtime
            .threads
            .spawn(async move { exited.send_replace(Some(running.await)) });
        Ok(process)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its number among the processes of its pod, which never had or will have another one.
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// Where an HTTP handler is served; empty for other kinds.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.inner.listening
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        let exit = self.inner.exit.borrow().clone();
        // Without a sender, the task is gone without a word: the runtime was dropped.
        exit.or_else(|| {
            self.inner
                .exit
                .has_changed()
                .is_err()
                .then_some(Exit::Killed)
        })
    }

    /// Waits until it has ended. Any number of callers may wait, before and after.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.inner.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Killed),
            Err(_) => Exit::Killed,
        }
    }

    /// Asks it to end. An HTTP handler accepts no more connections, answers the requests it has, and ends with exit
    /// code 0; what is not answered within `grace` is cut, and the process counts as [killed](Exit::Killed).
    ///
    /// A program that listens (`vaquita:pod/lifecycle`) is told, and ends by itself within `grace`, or is killed. WASI has no
    /// signals, so another one can't be asked: it is ended at once, as a native one without a handler for SIGTERM would be.
    ///
    /// Returns at once. When called again, the shorter grace counts.
    pub fn terminate(&self, grace: Duration) {
        self.inner.lifecycle.end_within(grace);
        self.inner.terminated.send_if_modified(|current| {
            let shorter = current.is_none_or(|current| grace < current);
            if shorter {
                *current = Some(grace);
            }
            shorter
        });
    }

    /// Ends it at once, wherever it is. Returns at once, too; [`wait`](Self::wait) tells when it is gone.
    pub fn kill(&self) {
        self.inner.killed.cancel();
    }

    /// Has an HTTP handler answer a request, without a connection. As over one, whatever goes wrong with the guest is
    /// an answer with a status: 500 if it fails, 503 if there is no room or it has ended, 504 if it takes too long.
    ///
    /// The guest goes on with its answer when the result is dropped, unless it fails for that.
    pub async fn request<B>(
        &self,
        request: http::Request<B>,
    ) -> Result<http::Response<ResponseBody>, RequestError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: fmt::Display,
    {
        let handler = self.inner.handler.upgrade();
        let handler = handler.ok_or(RequestError::NoHandler)?;
        let answer = handler.handle(request::incoming(request)).await;
        Ok(answer.map(|body| body.map_err(BodyError::new).boxed_unsync()))
    }

    /// Sets other limits while it runs: bytes of memory, and thousandths of a core, as
    /// [`ProcessConfig`] has them. Either all of them count from now on, or, if more memory is used than
    /// there may be, none.
    pub fn set_limits(
        &self,
        memory: Option<u64>,
        cpu: Option<u32>,
        cpu_request: Option<u32>,
    ) -> Result<(), OverLimit> {
        let accounts = &self.inner.accounts;
        let set = accounts.memory.set_limit(memory);
        set.map_err(|used| OverLimit {
            used,
            limit: memory.unwrap_or(u64::MAX),
        })?;
        accounts.cpu.set(cpu, cpu_request);
        Ok(())
    }

    /// What it uses now and has used so far.
    pub fn usage(&self) -> Usage {
        let accounts = &self.inner.accounts;
        Usage {
            memory: accounts.memory.used(),
            peak_memory: accounts.memory.peak(),
            cpu: accounts.cpu.used(),
            instances: accounts.instances.load(Ordering::Relaxed),
            requests: accounts.requests.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.inner.name)
            .field("exit", &self.exit())
            .finish_non_exhaustive()
    }
}

fn listen(network: &PodNetwork, ports: &[u16]) -> Result<Vec<Listener>, StartError> {
    let listen = |port: &u16| {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        network
            .listen(address)
            .map_err(|source| StartError::Listen {
                port: *port,
                source,
            })
    };
    ports.iter().map(listen).collect()
}

/// The whole life of a program.
async fn run(
    runtime: Arc<Shared>,
    (module, program): (Module, Program),
    environment: Arc<Environment>,
    mut orders: Orders,
) -> Exit {
    let entry = module.inner.entry.as_deref();
    let threads = match &program {
        Program::Sharing(module) => match Threads::new(&runtime, module, &environment) {
            Ok(threads) => Some(threads),
            Err(failure) => return report(&environment, failure.into()),
        },
        _ => None,
    };
    let running = program::run(&runtime, &program, entry, (&environment, threads.as_ref()));
    let running = runtime.processors.drive(running, &environment.accounts.cpu);
    let exit = until_ordered(&mut orders, &environment.member.lifecycle, running).await;
    if let Some(threads) = threads {
        threads.end().await;
    }
    report(&environment, exit)
}

/// Says in the log what its guest can't say any more of its end.
fn report(environment: &Environment, exit: Exit) -> Exit {
    match &exit {
        Exit::Trapped { message } | Exit::Failed { message } => environment.report(message),
        Exit::OutOfMemory => environment.report("out of memory"),
        Exit::Exited(_) | Exit::Terminated | Exit::Killed => {}
    }
    exit
}

/// A program until it ends, or is ended: at once, or by itself within its grace if it listens.
async fn until_ordered(
    orders: &mut Orders,
    lifecycle: &Lifecycle,
    program: impl Future<Output = Exit>,
) -> Exit {
    let killed = orders.killed.clone();
    tokio::pin!(program);
    let grace = tokio::select! {
        biased;
        () = killed.cancelled() => return Exit::Killed,
        grace = orders.terminated() => grace,
        exit = &mut program => return exit,
    };
    if !lifecycle.is_heeded() {
        return Exit::Terminated;
    }
    tokio::select! {
        biased;
        () = killed.cancelled() => Exit::Killed,
        exit = &mut program => exit,
        () = orders.grace_over(grace) => Exit::Killed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> (watch::Sender<Option<Duration>>, Orders) {
        let (terminated, orders) = watch::channel(None);
        let killed = CancellationToken::new();
        (
            terminated,
            Orders {
                killed,
                terminated: orders,
            },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn grace_lasts_as_long_as_was_granted() {
        let (terminated, mut orders) = orders();
        terminated.send_replace(Some(Duration::from_secs(30)));
        let start = Instant::now();
        let grace = orders.terminated().await;
        orders.grace_over(grace).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_grace_counts_from_when_it_is_granted() {
        let (terminated, mut orders) = orders();
        terminated.send_replace(Some(Duration::from_secs(30)));
        let start = Instant::now();
        let grace = orders.terminated().await;
        let later = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            terminated.send_replace(Some(Duration::from_secs(2)));
            // Its end is that of the process's last handle, which changes nothing.
            drop(terminated);
        };
        tokio::join!(orders.grace_over(grace), later);
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
