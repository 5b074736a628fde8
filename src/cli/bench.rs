//! `vaquita bench`: how fast a Kubernetes API server answers, this one or any other.
//!
//! The same work is done against whatever a kubeconfig or a URL points at, so that two servers on one machine can be
//! compared. The client shares the machine with the server, so it is made to cost little: HTTP/1.1 over connections
//! of its own, each with one request at a time, and bodies that are not parsed unless the work says so.
//!
//! `target` knows the server and connects to it, `load` drives requests through connections; `api`, `pods`, `scheduler`
//! and `scale` are the kinds of work, `hollow` simulates nodes for the last two, `crowd` has
//! many pods, `report` prints. Everything that is made
//! lives in a namespace of its own, which is deleted at the end, as simulated nodes are.

mod api;
mod crowd;
mod hollow;
mod load;
mod namespace;
mod objects;
mod pods;
mod process;
mod report;
mod scale;
mod scheduler;
mod stats;
mod target;
mod watch;

use self::{
    namespace::Namespace,
    report::{Format, Report},
    target::{Target, TargetArgs},
};

/// Options of `vaquita bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How to print the figures.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Format,
    /// A process of the server, on this machine, whose CPU time and memory are printed too. May be given several times.
    #[arg(long = "server-pid", value_name = "PID", global = true)]
    server_pids: Vec<u32>,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, clap::Subcommand)]
enum Work {
    /// Create, get, list, watch, update and delete: how many a second, and how long each takes.
    Api(api::ApiArgs),
    /// Pods: from creation to Running and to the first HTTP answer, and how many a second get there.
    Pods(pods::PodsArgs),
    /// Pods over simulated nodes: how many a second are bound.
    Scheduler(scheduler::SchedulerArgs),
    /// A large cluster of simulated nodes: how long requests take while pods come and go.
    Scale(scale::ScaleArgs),
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let target = Target::resolve(args.target).await?;
    let version = target.version().await?;
    let mut report = Report::new(args.output, target.url(), version, args.server_pids);
    let namespace = Namespace::create(&target).await?;
    let work = async {
        match args.work {
            Work::Api(args) => api::run(&args, &target, &namespace, &mut report).await,
            Work::Pods(args) => pods::run(&args, &target, &namespace, &mut report).await,
            Work::Scheduler(args) => scheduler::run(&args, &target, &namespace, &mut report).await,
            Work::Scale(args) => scale::run(&args, &target, &namespace, &mut report).await,
        }
    };
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    report.progress("cleaning up");
    let deleted = tokio::select! {
        deleted = namespace.delete(&target) => deleted,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted while cleaning up")),
    };
    report.finish();
    // What went wrong first is what to tell.
    result.and(deleted)
}
