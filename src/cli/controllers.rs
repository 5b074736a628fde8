//! Options of the controllers. They have the names that they have upstream, where there is one.

use std::{num::NonZeroUsize, time::Duration};

use vaquita_reconcile::{NodeLoss, Options};

use super::up::duration;

/// The controllers whose number of workers can be set.
const CONTROLLERS: [&str; 25] = [
    "bootstrap-tokens",
    "certificates",
    "cluster-roles",
    "cronjob",
    "daemonset",
    "deployment",
    "disruption",
    "endpoint-mirror",
    "endpoints",
    "ephemeral-volume",
    "garbage-collector",
    "horizontal-pod-autoscaler",
    "job",
    "load-balancers",
    "namespace",
    "node-lifecycle",
    "pod-garbage-collector",
    "replicaset",
    "replication",
    "resource-claims",
    "resource-quota",
    "service-accounts",
    "statefulset",
    "taint-eviction",
    "volume-protection",
];

/// How controllers work.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Controllers")]
pub(super) struct ControllerArgs {
    /// How long a node may say nothing until it counts as lost [default: 50s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    node_monitor_grace_period: Option<Duration>,
    /// How many lost nodes of a zone are given up each second; 0 is none [default: 0.1].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    node_eviction_rate: Option<f64>,
    /// The same in a large zone of which much is lost [default: 0.01].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    secondary_node_eviction_rate: Option<f64>,
    /// From which share of nodes that are not ready on much of a zone counts as lost, from 0 to 1 [default: 0.55].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    unhealthy_zone_threshold: Option<f64>,
    /// A zone with more nodes is large; in a smaller one of which much is lost, none is given up [default: 50].
    #[arg(long, value_name = "COUNT")]
    large_cluster_size_threshold: Option<usize>,
    /// How many pods that have ended are kept; 0 keeps all [default: 12500].
    #[arg(long, value_name = "COUNT")]
    terminated_pod_gc_threshold: Option<usize>,
    /// How many objects each controller works on at a time, and single ones of them, as in `8,deployment=4,job=32`
    /// [default: 16].
    #[arg(long, value_name = "COUNT,CONTROLLER=COUNT", value_delimiter = ',', value_parser = syncs)]
    concurrent_syncs: Vec<Syncs>,
}

/// How many objects a controller works on at a time; without a name, all of them.
#[derive(Debug, Clone)]
struct Syncs {
    controller: Option<String>,
    count: usize,
}

impl ControllerArgs {
    pub(super) fn resolve(self) -> Options {
        let mut options = Options::default();
        let loss = options.node_loss;
        options.node_loss = NodeLoss {
            grace: self.node_monitor_grace_period.unwrap_or(loss.grace),
            rate: self.node_eviction_rate.unwrap_or(loss.rate),
            secondary_rate: self
                .secondary_node_eviction_rate
                .unwrap_or(loss.secondary_rate),
            unhealthy_zone: self.unhealthy_zone_threshold.unwrap_or(loss.unhealthy_zone),
            large_zone: self.large_cluster_size_threshold.unwrap_or(loss.large_zone),
        };
        if let Some(count) = self.terminated_pod_gc_threshold {
            options.terminated_pods = count;
        }
        for Syncs { controller, count } in self.concurrent_syncs {
            match controller {
                None => options.workers = count,
                Some(controller) => {
                    options.workers_of.insert(controller, count);
                }
            }
        }
        options
    }
}

fn number(text: &str, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=most).contains(&number) => Ok(number),
        _ => Err(format!("it must be a number from 0 to {most}")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 1000.0)
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 1.0)
}

fn syncs(text: &str) -> Result<Syncs, String> {
    let (controller, count) = match text.split_once('=') {
        None => (None, text),
        Some((controller, _)) if !CONTROLLERS.contains(&controller) => {
            let known = CONTROLLERS.join(", ");
            return Err(format!(
                "there is no controller {controller:?}, but {known}"
            ));
        }
        Some((controller, count)) => (Some(controller.to_owned()), count),
    };
    let count: NonZeroUsize = count
        .parse()
        .map_err(|_| format!("{count:?} is not a number of objects"))?;
    Ok(Syncs {
        controller,
        count: count.get(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        controllers: ControllerArgs,
    }

    fn options(args: &[&str]) -> Result<Options, String> {
        let args = std::iter::once("vaquita").chain(args.iter().copied());
        let command = Command::try_parse_from(args).map_err(|error| error.to_string())?;
        Ok(command.controllers.resolve())
    }

    #[test]
    fn controllers_are_as_upstream_unless_told_otherwise() {
        let default = options(&[]).unwrap();
        assert_eq!(default.node_loss, NodeLoss::default());
        assert_eq!(default.workers_of("job-controller"), 16);
        let set = options(&[
            "--node-eviction-rate=0",
            "--unhealthy-zone-threshold=0.4",
            "--node-monitor-grace-period=20s",
            "--concurrent-syncs=4,job=32",
        ])
        .unwrap();
        assert_eq!(set.node_loss.grace, Duration::from_secs(20));
        let loss = (set.node_loss.rate, set.node_loss.unhealthy_zone);
        assert!((loss.0 - 0.0).abs() < 1e-9 && (loss.1 - 0.4).abs() < 1e-9);
        assert_eq!(set.workers_of("job-controller"), 32);
        assert_eq!(set.workers_of("deployment-controller"), 4);
    }

    #[test]
    fn nonsense_is_refused() {
        for (args, why) in [
            ("--node-eviction-rate=-1", "from 0 to 1000"),
            ("--unhealthy-zone-threshold=2", "from 0 to 1"),
            ("--secondary-node-eviction-rate=NaN", "from 0 to 1000"),
            ("--concurrent-syncs=jobs=2", "there is no controller"),
            ("--concurrent-syncs=job=0", "not a number"),
        ] {
            let error = options(&[args]).unwrap_err();
            assert!(error.contains(why), "{args}: {error}");
        }
    }
}
