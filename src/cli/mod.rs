//! The command line. Flags are parsed to plain values here and resolved by the command that they belong to.

mod bench;
mod controllers;
mod demo;
mod entrance;
mod eviction;
mod image;
mod image_files;
mod image_gc;
mod kernel_network;
mod registries;
mod report;
mod rolling_update;
mod run;
#[cfg(target_os = "linux")]
mod trim;
mod up;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// A Kubernetes-compatible cluster in one binary, whose pods are groups of WebAssembly modules.
#[derive(Debug, Parser)]
#[command(name = "vaquita", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a one-node cluster in this process until Ctrl-C.
    Up(Box<up::UpArgs>),
    /// Run a WebAssembly file: its output and its exit code are this command's.
    Run(run::RunArgs),
    /// Work with the images that pods on this machine can use.
    Image(image::ImageArgs),
    /// Measure a Kubernetes API server, this one or any other.
    Bench(Box<bench::BenchArgs>),
    /// Replace a replication controller's pods by those of another one, a pod at a time.
    RollingUpdate(Box<rolling_update::RollingUpdateArgs>),
}

/// Parses the process's arguments, runs the command, and says in one line why it failed if it did.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&anyhow::Error::new(error).context("cannot start worker threads"));
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => return run::run(args).await,
            Command::Up(args) => up::run(*args).await,
            Command::Image(args) => image::run(args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::RollingUpdate(args) => Box::pin(rolling_update::run(*args)).await,
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // Blocking work that is still under way (a name lookup, a compilation) does not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("vaquita: {error:#}");
    ExitCode::FAILURE
}

/// Logs go to standard error; `VAQUITA_LOG` (the syntax of `RUST_LOG`) chooses what, warnings by default.
fn start_tracing() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("VAQUITA_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Where a cluster keeps everything.
#[derive(Debug, clap::Args)]
struct DataDir {
    /// Directory that holds the cluster's state [default: ~/.vaquita].
    #[arg(long, value_name = "DIR", env = "VAQUITA_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    fn resolve(self) -> anyhow::Result<PathBuf> {
        match self.data_dir {
            Some(dir) => Ok(dir),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .map(|home| home.join(".vaquita"))
                .ok_or_else(|| anyhow::anyhow!("no home directory is known: say --data-dir DIR")),
        }
    }
}
