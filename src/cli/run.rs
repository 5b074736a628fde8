//! `vaquita run`: one WebAssembly file, as the program that it is. Its output is this command's output, its exit code
//! this command's.
//!
//! Without a cluster, it runs in this very process, as the only pod of a network of its own. With `--cluster`, it runs
//! as a pod of the running cluster, which is deleted afterwards.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, LogParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use vaquita_image::ImageStore;
use vaquita_net::{Fabric, FabricConfig, Outside};
use vaquita_runtime::{
    Exit, LogStream, ModuleKind, Mount, OutputSink, PodConfig, ProcessConfig, Runtime, Volume,
};

use super::DataDir;

/// How often a pod is looked at until it runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a program that was interrupted may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Options of `vaquita run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The .wasm file: a core module or a component with an entry point.
    file: PathBuf,
    /// Arguments of the program.
    #[arg(last = true)]
    args: Vec<String>,
    /// Set a variable of the program's environment. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Let the program use a directory, under the path GUEST or else under its own. May be repeated.
    #[arg(long, value_name = "DIR[:GUEST]", conflicts_with = "cluster")]
    dir: Vec<String>,
    /// Run it as a pod of the running cluster with this data directory.
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    data_dir: DataDir,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Runs the program to its end.
pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let code = if args.cluster {
        in_cluster(args).await?
    } else {
        alone(args).await?
    };
    // What no process can say is said as a failure.
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What the program writes is written at once.
struct Console;

impl OutputSink for Console {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        // Nobody listens any more: the program need not know.
        let _ = match stream {
            LogStream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            LogStream::Stderr => std::io::stderr().lock().write_all(bytes),
        };
    }
}

async fn alone(args: RunArgs) -> anyhow::Result<i32> {
    let name = program_name(&args.file);
    let wasm = std::fs::read(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let runtime = Runtime::new(vaquita_runtime::Config::default())?;
    let module = runtime
        .load(wasm.into())
        .await
        .with_context(|| format!("cannot run {}", args.file.display()))?;
    if module.kind() == ModuleKind::HttpHandler {
        bail!(
            "{} serves HTTP, it is no program: run it as a pod with a Service, or with --cluster",
            args.file.display()
        );
    }
    let network = FabricConfig {
        // Its user's own program, on its user's own machine.
        outside: Outside {
            everything: true,
            host_loopback: true,
            service_endpoints: true,
        },
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(network)?;
    let pod = runtime.pod(PodConfig::new(name.clone(), fabric.attach(None)?));
    let mut config = ProcessConfig::new(name.clone(), module);
    config.args = std::iter::once(name).chain(args.args).collect();
    config.env = args.env;
    config.stdin = Some(Box::new(tokio::io::stdin()));
    config.output = Some(Arc::new(Console));
    config.mounts = args
        .dir
        .iter()
        .map(|dir| mount(dir))
        .collect::<anyhow::Result<_>>()?;
    let process = pod.start(config).await?;
    let exit = tokio::select! {
        exit = process.wait() => exit,
        _ = tokio::signal::ctrl_c() => {
            process.terminate(GRACE);
            process.wait().await
        }
    };
    if let Exit::Trapped { message } | Exit::Failed { message } = &exit {
        eprintln!("{message}");
    }
    Ok(exit.code())
}

/// `DIR`, or `DIR:GUEST`.
fn mount(text: &str) -> anyhow::Result<Mount> {
    let (dir, guest) = text.split_once(':').unwrap_or((text, text));
    let guest = if guest.starts_with('/') {
        guest.to_owned()
    } else {
        format!("/{guest}")
    };
    let volume = Volume::directory(dir).with_context(|| format!("cannot use {dir}"))?;
    Ok(Mount {
        guest,
        volume,
        sub_path: String::new(),
        read_only: false,
    })
}

fn program_name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or(file.as_os_str());
    stem.to_string_lossy().into_owned()
}

async fn in_cluster(args: RunArgs) -> anyhow::Result<i32> {
    let data_dir = args.data_dir.resolve()?;
    let kubeconfig = data_dir.join("admin.kubeconfig");
    let config = Kubeconfig::read_from(&kubeconfig).with_context(|| {
        format!(
            "there is no cluster in {}: start one with 'vaquita up', or leave --cluster away",
            data_dir.display()
        )
    })?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;

    let store = ImageStore::open(&data_dir.join("images"))?;
    let reference = format!("localhost/run/{}:latest", image_name(&args.file));
    let image = store
        .load_file(&reference, &args.file)
        .with_context(|| format!("cannot load {}", args.file.display()))?;
    let env: Vec<_> = args
        .env
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "run-", "labels": {"app.kubernetes.io/managed-by": "vaquita-run"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": image.reference, "imagePullPolicy": "Never",
                "command": [program_name(&args.file)], "args": args.args, "env": env,
            }],
        },
    }))?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod = pods.create(&PostParams::default(), &pod).await?;
    let name = pod.name_any();
    let outcome = tokio::select! {
        outcome = follow(&pods, &name) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(130),
    };
    let removal = DeleteParams::default().grace_period(0);
    if let Err(error) = pods.delete(&name, &removal).await {
        eprintln!("vaquita: pod {name} could not be deleted: {error}");
    }
    outcome
}

/// Part of an image's name: what such a name may have of the file's.
fn image_name(file: &Path) -> String {
    let name: String = program_name(file)
        .chars()
        .map(|letter| letter.to_ascii_lowercase())
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "program".to_owned()
    } else {
        name.to_owned()
    }
}

/// Shows what a pod writes until it has ended, and returns its exit code.
async fn follow(pods: &Api<Pod>, name: &str) -> anyhow::Result<i32> {
    until_begun(pods, name).await?;
    let params = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(name, &params).await?.lines();
    while let Some(line) = lines.try_next().await? {
        println!("{line}");
    }
    loop {
        let pod = pods.get(name).await?;
        if let Some(end) = end(&pod) {
            if let Some(message) = &end.message {
                eprintln!("{message}");
            }
            return Ok(end.exit_code);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the pod's container runs, or has run.
async fn until_begun(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    loop {
        let pod = pods.get(name).await?;
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        for state in statuses.filter_map(|status| status.state.as_ref()) {
            if state.running.is_some() || state.terminated.is_some() {
                return Ok(());
            }
            let waiting = state.waiting.as_ref();
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            if let Some(reason) = reason.filter(|reason| reason.contains("Err")) {
                let message = waiting.and_then(|waiting| waiting.message.clone());
                bail!("{reason}: {}", message.unwrap_or_default());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn end(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.terminated.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_names() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("=x").is_err() && variable("x").is_err());
    }

    #[test]
    fn any_file_has_a_name_for_its_image() {
        for (file, name) in [
            ("a/Hello_World.wasm", "hello-world"),
            ("--.wasm", "program"),
            ("x", "x"),
        ] {
            assert_eq!(image_name(Path::new(file)), name);
        }
    }
}
