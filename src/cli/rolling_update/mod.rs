//! `vaquita rolling-update`: replaces the pods of a replication controller by those of another one, a pod at a time.
//!
//! The client does the work, as in the days before deployments, against any API server. How far it is stands in annotations
//! of the two controllers, by the names that were in use then: whoever runs the command again goes on where it was stopped.

mod plan;

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::ReplicationController;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::plan::{Counted, Step};

/// On the new controller: whose pods it replaces, as `name:uid`.
const SOURCE: &str = "kubectl.kubernetes.io/update-source-id";
/// On the new controller: how many pods it will have.
const DESIRED: &str = "kubectl.kubernetes.io/desired-replicas";
/// On the old controller: how many pods it had.
const ORIGINAL: &str = "kubectl.kubernetes.io/original-replicas";
/// The largest file that is read.
const FILE_LIMIT: u64 = 3 * 1024 * 1024;

/// Options of `vaquita rolling-update`.
#[derive(Debug, clap::Args)]
pub(super) struct RollingUpdateArgs {
    /// The replication controller to replace.
    #[arg(value_name = "OLD_RC")]
    old: String,
    /// The one that takes its place. It is there already, or --filename has it.
    #[arg(value_name = "NEW_RC", required_unless_present = "filename")]
    new: Option<String>,
    /// File with the new replication controller, in YAML or JSON.
    #[arg(short, long, value_name = "FILE", conflicts_with = "rollback")]
    filename: Option<PathBuf>,
    /// Go back: give `OLD_RC` its pods again and remove `NEW_RC`.
    #[arg(long)]
    rollback: bool,
    /// Pause after each new pod.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    update_period: Duration,
    /// Pause between looks at the two controllers.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    poll_interval: Duration,
    /// Give up after so long without progress.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
    /// Namespace of both [default: the context's].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Kubeconfig file of the cluster [default: $KUBECONFIG, ~/.kube/config, or the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "it must not be below zero".to_owned())
}

pub(super) async fn run(args: RollingUpdateArgs) -> anyhow::Result<()> {
    let (client, default_namespace) = connect(&args).await?;
    let namespace = args.namespace.clone().unwrap_or(default_namespace);
    let api = Api::namespaced(client, &namespace);
    let update = Box::pin(Update::prepare(api, &args)).await?;
    let Some(update) = update else {
        return Ok(());
    };
    tokio::select! {
        result = update.run() => result,
        _ = tokio::signal::ctrl_c() => {
            bail!("stopped halfway: run the same command to go on, or with --rollback to go back")
        }
    }
}

async fn connect(args: &RollingUpdateArgs) -> anyhow::Result<(Client, String)> {
    // Fails if the process has one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| anyhow::anyhow!("{error}"))?;
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.with_context(|| format!("cannot use {}", path.display()))?
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer()
            .await
            .context("no cluster is known: say --kubeconfig FILE")?,
    };
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}

/// An update on its way: from one controller to another.
struct Update {
    api: Api<ReplicationController>,
    old: String,
    new: String,
    /// How many pods the new one will have.
    desired: i32,
    pause: Duration,
    poll_interval: Duration,
    timeout: Duration,
    /// What to say in the end.
    verb: &'static str,
}

impl Update {
    /// Finds or makes both controllers and notes in them what is to become of them. Nothing if all is done already.
    async fn prepare(
        api: Api<ReplicationController>,
        args: &RollingUpdateArgs,
    ) -> anyhow::Result<Option<Self>> {
        let file = args.filename.as_deref().map(read).transpose()?;
        let named = file.as_ref().and_then(|new| new.metadata.name.clone());
        let new_name = match (&args.new, named) {
            (Some(said), Some(named)) if *said != named => {
                bail!("the file has a replication controller {named}, not {said}")
            }
            (Some(name), _) => name.clone(),
            (None, Some(named)) => named,
            (None, None) => bail!("the replication controller in the file has no name"),
        };
        ensure!(
            new_name != args.old,
            "old and new must have different names"
        );
        let (from, to) = if args.rollback {
            (&new_name, &args.old)
        } else {
            (&args.old, &new_name)
        };
        let Some(source) = api.get_opt(from).await? else {
            return finish(&api, from, to).await.map(|()| None);
        };
        let target = match (api.get_opt(to).await?, file) {
            (Some(target), _) => target,
            (None, Some(file)) => create(&api, &source, file).await?,
            (None, None) => bail!("there is no replication controller {to}"),
        };
        ensure_apart(&source, &target)?;
        let desired = note_target(&api, &source, &target, args.rollback).await?;
        note_source(&api, &source).await?;
        Ok(Some(Self {
            old: from.clone(),
            new: to.clone(),
            desired,
            pause: args.update_period,
            poll_interval: args.poll_interval.max(Duration::from_millis(10)),
            timeout: args.timeout,
            verb: if args.rollback {
                "rolled back"
            } else {
                "rolling updated"
            },
            api,
        }))
    }

    async fn run(&self) -> anyhow::Result<()> {
        let (old, new, desired) = (&self.old, &self.new, self.desired);
        say(&format!(
            "Updating {old} to {new}: {desired} pods stay available, there are {} at most",
            desired.saturating_add(1)
        ));
        let mut seen = None;
        let mut progress = Instant::now();
        let mut rest = false;
        loop {
            let (source, target) = (self.get(old).await?, self.get(new).await?);
            let counted = (count(&source), count(&target));
            if seen != Some(counted) {
                (seen, progress) = (Some(counted), Instant::now());
            }
            match plan::next(counted.0, counted.1, desired) {
                Step::SizeNew(size) => {
                    rest = size > counted.1.size;
                    self.size(&target, size).await?;
                }
                Step::SizeOld(size) => {
                    // The new pods are available: time to look at them before an old one goes.
                    if std::mem::take(&mut rest) && !self.pause.is_zero() {
                        tokio::time::sleep(self.pause).await;
                        progress = Instant::now();
                        continue;
                    }
                    self.size(&source, size).await?;
                }
                Step::Wait => {
                    ensure!(
                        progress.elapsed() < self.timeout,
                        "no progress for {:?}: {} of {} pods of {new} are available; run the same command to go on, or with --rollback to go back",
                        self.timeout,
                        counted.1.available,
                        counted.1.size
                    );
                    tokio::time::sleep(self.poll_interval).await;
                }
                Step::Done => break,
            }
        }
        say(&format!("Update succeeded. Deleting {old}"));
        delete(&self.api, &self.get(old).await?).await?;
        forget(&self.api, new).await?;
        println!("replicationcontroller/{new} {}", self.verb);
        Ok(())
    }

    async fn get(&self, name: &str) -> anyhow::Result<ReplicationController> {
        let found = self.api.get(name).await;
        found.with_context(|| format!("cannot read the replication controller {name}"))
    }

    /// Sizes a controller, unless somebody else has changed it since: then the next look decides anew.
    async fn size(&self, controller: &ReplicationController, size: i32) -> anyhow::Result<()> {
        let (name, before) = (controller.name_any(), count(controller).size);
        let direction = if before < size { "up" } else { "down" };
        let patch = json!({
            "metadata": { "resourceVersion": controller.resource_version() },
            "spec": { "replicas": size },
        });
        match patched(&self.api, &name, patch).await {
            Ok(_) => say(&format!("Scaling {name} {direction} to {size}")),
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot scale {name}"));
            }
        }
        Ok(())
    }
}

/// Progress for people: nothing is said in a pipe.
fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Reads the new controller from a file.
fn read(path: &Path) -> anyhow::Result<ReplicationController> {
    let read = || -> anyhow::Result<ReplicationController> {
        let size = std::fs::metadata(path)?.len();
        ensure!(size <= FILE_LIMIT, "it is larger than {FILE_LIMIT} bytes");
        let value: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let kind = (value["apiVersion"].as_str(), value["kind"].as_str());
        ensure!(
            kind == (Some("v1"), Some("ReplicationController")),
            "it has to have one object, a v1 ReplicationController"
        );
        Ok(serde_json::from_value(value)?)
    };
    read().with_context(|| format!("cannot use {}", path.display()))
}

/// Both controllers must not take each other's pods for their own.
fn ensure_apart(old: &ReplicationController, new: &ReplicationController) -> anyhow::Result<()> {
    let (old_labels, new_labels) = (selector(old), selector(new));
    let differs =
        |(key, value): (&String, &String)| old_labels.get(key).is_some_and(|known| known != value);
    ensure!(
        new_labels.iter().any(differs),
        "the selectors of {} and {} must have a label of different values: their pods cannot be told apart",
        old.name_any(),
        new.name_any()
    );
    Ok(())
}

fn selector(controller: &ReplicationController) -> std::collections::BTreeMap<String, String> {
    let spec = controller.spec.as_ref();
    let said = spec.and_then(|spec| spec.selector.clone());
    let labels = || {
        let template = spec?.template.as_ref()?;
        template.metadata.as_ref()?.labels.clone()
    };
    said.filter(|selector| !selector.is_empty())
        .or_else(labels)
        .unwrap_or_default()
}

fn source_id(source: &ReplicationController) -> String {
    format!("{}:{}", source.name_any(), source.uid().unwrap_or_default())
}

fn number(controller: &ReplicationController, key: &str) -> Option<i32> {
    controller.annotations().get(key)?.parse().ok()
}

fn count(controller: &ReplicationController) -> Counted {
    let status = controller.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let spec = controller.spec.as_ref();
    Counted {
        size: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        available: status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
        settled: observed >= controller.metadata.generation,
    }
}

/// Creates the new controller, without pods yet.
async fn create(
    api: &Api<ReplicationController>,
    source: &ReplicationController,
    mut model: ReplicationController,
) -> anyhow::Result<ReplicationController> {
    ensure_apart(source, &model)?;
    let spec = model.spec.get_or_insert_default();
    let desired = spec.replicas.replace(0).unwrap_or(1);
    model.metadata.namespace = None;
    let annotations = model.annotations_mut();
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(SOURCE.to_owned(), source_id(source));
    let created = api.create(&PostParams::default(), &model).await;
    let created = created.with_context(|| format!("cannot create {}", model.name_any()))?;
    say(&format!("Created {}", created.name_any()));
    Ok(created)
}

/// Notes in the target whose place it takes, and how many pods it will have, unless that stands there already.
async fn note_target(
    api: &Api<ReplicationController>,
    source: &ReplicationController,
    target: &ReplicationController,
    rollback: bool,
) -> anyhow::Result<i32> {
    let (name, id) = (target.name_any(), source_id(source));
    let noted = target.annotations().get(SOURCE);
    if noted == Some(&id)
        && let Some(desired) = number(target, DESIRED)
    {
        say(&format!(
            "Continuing update with existing controller {name}"
        ));
        return Ok(desired);
    }
    ensure!(
        noted.is_none() || rollback,
        "{name} is the target of another update: of {}",
        noted.map_or("", String::as_str)
    );
    let size = count(target).size;
    let desired = match (number(target, ORIGINAL), rollback) {
        (Some(original), _) if rollback => original,
        (None, true) => bail!("no update of {name} is under way: there is nothing to roll back"),
        _ if size > 0 => size,
        _ => number(source, ORIGINAL).unwrap_or(count(source).size),
    };
    let annotations = json!({ SOURCE: id, DESIRED: desired.to_string() });
    let patch = json!({ "metadata": { "annotations": annotations } });
    let noted = patched(api, &name, patch).await;
    noted.with_context(|| format!("cannot annotate {name}"))?;
    Ok(desired)
}

/// Notes in the source how many pods it had, unless that stands there already.
async fn note_source(
    api: &Api<ReplicationController>,
    source: &ReplicationController,
) -> anyhow::Result<()> {
    if number(source, ORIGINAL).is_some() {
        return Ok(());
    }
    let size = number(source, DESIRED).unwrap_or(count(source).size);
    let annotations = json!({ ORIGINAL: size.to_string() });
    let patch = json!({ "metadata": { "annotations": annotations } });
    let name = source.name_any();
    let noted = patched(api, &name, patch).await;
    noted.with_context(|| format!("cannot annotate {name}"))?;
    Ok(())
}

/// The old controller is gone: an update that was stopped just before its end, if the new one says so.
async fn finish(api: &Api<ReplicationController>, old: &str, new: &str) -> anyhow::Result<()> {
    let target = api.get_opt(new).await?;
    let replaced = |target: &ReplicationController| {
        let source = target.annotations().get(SOURCE);
        source.is_some_and(|source| source.split(':').next() == Some(old))
    };
    ensure!(
        target.as_ref().is_some_and(replaced),
        "there is no replication controller {old}"
    );
    forget(api, new).await?;
    println!("replicationcontroller/{new} rolling updated");
    Ok(())
}

/// Takes what was noted out of the controller that stays.
async fn forget(api: &Api<ReplicationController>, name: &str) -> anyhow::Result<()> {
    let annotations = json!({ SOURCE: null, DESIRED: null, ORIGINAL: null });
    let patch = json!({ "metadata": { "annotations": annotations } });
    let forgotten = patched(api, name, patch).await;
    forgotten.with_context(|| format!("cannot annotate {name}"))?;
    Ok(())
}

async fn delete(
    api: &Api<ReplicationController>,
    controller: &ReplicationController,
) -> anyhow::Result<()> {
    let name = controller.name_any();
    let params = DeleteParams::background().preconditions(Preconditions {
        uid: controller.uid(),
        resource_version: None,
    });
    let deleted = api.delete(&name, &params).await;
    deleted.with_context(|| format!("cannot delete {name}"))?;
    Ok(())
}

async fn patched(
    api: &Api<ReplicationController>,
    name: &str,
    patch: Value,
) -> Result<ReplicationController, kube::Error> {
    let patch = Patch::Merge(patch);
    api.patch(name, &PatchParams::default(), &patch).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(labels: &Value) -> ReplicationController {
        let value = json!({ "metadata": { "name": "x" }, "spec": { "selector": labels } });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_must_be_told_apart() {
        let old = controller(&json!({ "app": "web", "version": "v1" }));
        for (new, apart) in [
            (json!({ "app": "web", "version": "v2" }), true),
            (json!({ "app": "web" }), false),
            (json!({ "app": "web", "version": "v1", "more": "x" }), false),
            (json!({ "other": "web" }), false),
        ] {
            assert_eq!(
                ensure_apart(&old, &controller(&new)).is_ok(),
                apart,
                "{new}"
            );
        }
    }

    #[test]
    fn a_report_about_an_older_size_is_old_news() {
        let mut controller = controller(&json!({ "app": "web" }));
        controller.metadata.generation = Some(3);
        assert!(!count(&controller).settled);
        let status = json!({ "replicas": 2, "observedGeneration": 3, "availableReplicas": 2 });
        controller.status = Some(serde_json::from_value(status).unwrap());
        assert!(count(&controller).settled);
    }
}
