//! `vaquita bench api`: the verbs, one after another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Uri};
use serde::{Deserialize, de::IgnoredAny};
use tokio::time::MissedTickBehavior;

use super::{
    load::{self, Call, Work},
    namespace::Namespace,
    objects,
    report::{Figure, Report},
    stats::Samples,
    target::Target,
    watch::Audience,
};

/// Options of `vaquita bench api`.
#[derive(Debug, clap::Args)]
pub(super) struct ApiArgs {
    /// How many connections to use at a time; each measurement is made with each of these numbers.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16,64", value_parser = at_least_one())]
    connections: Vec<usize>,
    /// Objects to create, update and delete, and to list: config maps with one key of 1,024 characters each.
    #[arg(long, value_name = "N", default_value = "2000", value_parser = at_least_one())]
    objects: usize,
    /// Times to read one object.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one())]
    gets: usize,
    /// Times to list all objects.
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one())]
    lists: usize,
    /// Pods to create and list; no scheduler takes them. 0 leaves this out.
    #[arg(long, value_name = "N", default_value = "2000")]
    pods: usize,
    /// Watchers, each with a connection of its own. 0 leaves watching out.
    #[arg(long, value_name = "N", default_value = "100")]
    watchers: usize,
    /// Writes for the watchers at a pace of 50 a second.
    #[arg(long, value_name = "N", default_value = "200", value_parser = at_least_one())]
    paced_writes: usize,
}

fn at_least_one() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u32)
        .range(1..)
        .map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

/// The time between two writes at the given pace.
const PACE: Duration = Duration::from_millis(20);
/// Connections for work that is not measured.
const SETUP_CONNECTIONS: usize = 16;

/// Objects with a prefix and a number for a name.
struct Objects {
    target: Target,
    collection: String,
    prefix: String,
    /// Where each of them stands.
    versions: Vec<AtomicU64>,
}

impl Objects {
    fn new(target: &Target, collection: String, prefix: String, count: usize) -> Arc<Self> {
        let versions = (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            target: target.clone(),
            collection,
            prefix,
            versions,
        })
    }

    fn name(&self, number: usize) -> String {
        format!("{}{number}", self.prefix)
    }

    fn collection_uri(&self) -> anyhow::Result<Uri> {
        self.target.uri(&self.collection)
    }

    fn uri(&self, number: usize) -> anyhow::Result<Uri> {
        self.target
            .uri(&format!("{}/{}", self.collection, self.name(number)))
    }

    fn remember(&self, number: usize, body: &[u8]) -> anyhow::Result<()> {
        let version =
            objects::resource_version(body).context("an answer has no resourceVersion")?;
        self.versions[number].store(version, Ordering::Relaxed);
        Ok(())
    }
}

struct Create(Arc<Objects>, fn(&str) -> Bytes);

impl Work for Create {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        let Self(objects, body) = self;
        Ok(Call {
            method: Method::POST,
            uri: objects.collection_uri()?,
            body: body(&objects.name(number)),
        })
    }

    fn answered(&self, number: usize, body: &Bytes) -> anyhow::Result<()> {
        self.0.remember(number, body)
    }
}

fn create_config_maps(objects: &Arc<Objects>) -> Arc<dyn Work> {
    Arc::new(Create(objects.clone(), |name| {
        objects::config_map(name, None)
    }))
}

struct Update(Arc<Objects>);

impl Work for Update {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        let Self(objects) = self;
        let version = objects.versions[number].load(Ordering::Relaxed);
        let body = objects::config_map(&objects.name(number), Some(version));
        Ok(Call {
            method: Method::PUT,
            uri: objects.uri(number)?,
            body,
        })
    }

    fn answered(&self, number: usize, body: &Bytes) -> anyhow::Result<()> {
        self.0.remember(number, body)
    }
}

struct Delete(Arc<Objects>);

impl Work for Delete {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        Ok(Call {
            method: Method::DELETE,
            uri: self.0.uri(number)?,
            body: Bytes::new(),
        })
    }
}

/// The same request again and again.
struct Get(Uri);

impl Work for Get {
    fn call(&self, _number: usize) -> anyhow::Result<Call> {
        Ok(Call::get(self.0.clone()))
    }
}

/// A list, which must have at least so many items.
struct List(Uri, usize);

impl Work for List {
    fn call(&self, _number: usize) -> anyhow::Result<Call> {
        Ok(Call::get(self.0.clone()))
    }

    fn answered(&self, _number: usize, body: &Bytes) -> anyhow::Result<()> {
        let items = count_items(body)?;
        ensure!(
            items >= self.1,
            "a list has {items} items instead of {}",
            self.1
        );
        Ok(())
    }
}

fn count_items(list: &[u8]) -> anyhow::Result<usize> {
    #[derive(Deserialize)]
    struct Items {
        items: Vec<IgnoredAny>,
    }
    let list: Items = serde_json::from_slice(list).context("a list cannot be read")?;
    Ok(list.items.len())
}

pub(super) async fn run(
    args: &ApiArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut bench = Bench {
        args,
        target,
        namespace,
        report,
    };
    for connections in &args.connections {
        bench.writes(*connections).await?;
    }
    bench.reads().await?;
    if args.pods > 0 {
        bench.pods().await?;
    }
    if args.watchers > 0 {
        for connections in &args.connections {
            bench.watch(*connections).await?;
        }
        bench.watch_paced().await?;
    }
    Ok(())
}

struct Bench<'a> {
    args: &'a ApiArgs,
    target: &'a Target,
    namespace: &'a Namespace,
    report: &'a mut Report,
}

impl Bench<'_> {
    async fn measure(
        &mut self,
        name: &str,
        connections: usize,
        count: usize,
        work: Arc<dyn Work>,
    ) -> anyhow::Result<()> {
        self.report
            .progress(&format!("{name}, {connections} connections"));
        let run = load::run(self.target, connections, count, work)
            .await
            .with_context(|| name.to_owned())?;
        self.report.add(Figure::of(name, run));
        Ok(())
    }

    fn config_maps(&self, prefix: String, count: usize) -> Arc<Objects> {
        Objects::new(
            self.target,
            self.namespace.path("configmaps"),
            prefix,
            count,
        )
    }

    async fn writes(&mut self, connections: usize) -> anyhow::Result<()> {
        let count = self.args.objects;
        let objects = self.config_maps(format!("write-{connections}-"), count);
        self.measure("create", connections, count, create_config_maps(&objects))
            .await?;
        self.measure(
            "update",
            connections,
            count,
            Arc::new(Update(objects.clone())),
        )
        .await?;
        self.measure("delete", connections, count, Arc::new(Delete(objects)))
            .await
    }

    async fn reads(&mut self) -> anyhow::Result<()> {
        let ApiArgs {
            objects: count,
            gets,
            lists,
            ..
        } = *self.args;
        let objects = self.config_maps("read-".to_owned(), count);
        load::run(
            self.target,
            SETUP_CONNECTIONS,
            count,
            create_config_maps(&objects),
        )
        .await?;
        let (collection, fixed) = (&objects.collection, objects.uri(0)?);
        let cached = self
            .target
            .uri(&format!("{collection}/read-0?resourceVersion=0"))?;
        for connections in self.args.connections.clone() {
            let work = Arc::new(Get(cached.clone()));
            self.measure("get, resourceVersion=0", connections, gets, work)
                .await?;
        }
        for connections in self.args.connections.clone() {
            self.measure("get", connections, gets, Arc::new(Get(fixed.clone())))
                .await?;
        }
        let all = self.target.uri(collection)?;
        for connections in self.args.connections.clone() {
            let work = Arc::new(List(all.clone(), count));
            self.measure(
                &format!("list {count} ConfigMaps"),
                connections,
                lists,
                work,
            )
            .await?;
        }
        Ok(())
    }

    async fn pods(&mut self) -> anyhow::Result<()> {
        let ApiArgs {
            pods: count, lists, ..
        } = *self.args;
        self.namespace
            .wait_until_pods_are_admitted(self.target)
            .await?;
        let objects = Objects::new(
            self.target,
            self.namespace.path("pods"),
            "pod-".to_owned(),
            count,
        );
        let create = Arc::new(Create(objects.clone(), objects::idle_pod));
        self.measure("create pods", SETUP_CONNECTIONS, count, create)
            .await?;
        let list = Arc::new(List(objects.collection_uri()?, count));
        self.measure(&format!("list {count} pods"), 1, lists, list)
            .await?;
        let delete = Arc::new(Delete(objects));
        self.measure("delete pods", SETUP_CONNECTIONS, count, delete)
            .await
    }

    /// Writes as fast as they go. What is counted are events.
    async fn watch(&mut self, writers: usize) -> anyhow::Result<()> {
        let ApiArgs {
            objects: count,
            watchers,
            ..
        } = *self.args;
        let name = format!("watch, {watchers} watchers: events, by writers");
        let objects = self.config_maps(format!("watch-{writers}-"), count);
        let audience = self.audience(&objects, count).await?;
        self.report.progress(&format!("{name}, {writers} writers"));
        let run = load::run(self.target, writers, count, create_config_maps(&objects)).await?;
        let (last, _) = audience.leave().await?;
        self.report.add(Figure::throughput(
            name,
            writers,
            count * watchers,
            last - run.start,
        ));
        Ok(())
    }

    /// Writes at a pace. What is measured is the time from a write's acknowledgement to its last event; an event that
    /// comes before the acknowledgement counts as no time.
    async fn watch_paced(&mut self) -> anyhow::Result<()> {
        let ApiArgs {
            paced_writes: count,
            watchers,
            ..
        } = *self.args;
        let name = format!("watch, {watchers} watchers: write to last event");
        let objects = self.config_maps("paced-".to_owned(), count);
        let audience = self.audience(&objects, count).await?;
        self.report.progress(&name);
        let mut connection = self.target.connect().await?;
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start = Instant::now();
        let mut acknowledged = Vec::with_capacity(count);
        for number in 0..count {
            ticks.tick().await;
            let body = objects::config_map(&objects.name(number), None);
            connection
                .call(Method::POST, objects.collection_uri()?, body)
                .await?;
            acknowledged.push(Instant::now());
        }
        let (last, seen) = audience.leave().await?;
        let mut samples = Samples::with_capacity(count);
        samples.extend(
            acknowledged
                .iter()
                .zip(seen)
                .map(|(acknowledged, seen)| seen.duration_since(*acknowledged)),
        );
        self.report
            .add(Figure::latency(name, 1, samples, last - start));
        Ok(())
    }

    async fn audience(&self, objects: &Objects, count: usize) -> anyhow::Result<Audience> {
        let Objects {
            collection, prefix, ..
        } = objects;
        Audience::gather(
            self.target,
            collection,
            self.args.watchers,
            prefix.clone(),
            count,
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted() {
        let list =
            br#"{"kind":"List","metadata":{"resourceVersion":"1"},"items":[{"a":[1,2]},{}]}"#;
        assert_eq!(count_items(list).unwrap(), 2);
        assert!(count_items(b"{}").is_err());
    }
}
