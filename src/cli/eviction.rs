//! When the node ends pods because the machine runs out of something. The options have the names that the kubelet's have.

use std::time::Duration;

use anyhow::Context as _;
use vaquita_node::{EvictionThresholds, SoftEviction};

use super::up::duration;

/// Options about what is left of the machine.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "What is left of the machine")]
#[allow(
    clippy::struct_field_names,
    reason = "they are the names of the options"
)]
pub(super) struct EvictionOptions {
    /// Below what the node is under pressure and ends pods, as in `memory.available<100Mi,nodefs.available<10%`; an empty text is
    /// never [default: 100Mi of memory, 10% of the disk, 15% of that of images, 5% of the inodes]
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<EvictionThresholds>,
    /// The same where that may be so for a while, and pods get time to end [default: never]
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_soft: Option<EvictionThresholds>,
    /// How long each soft threshold may be crossed, as in `memory.available=90s,nodefs.available=5m`
    #[arg(long, value_name = "PERIODS", value_delimiter = ',', value_parser = period)]
    eviction_soft_grace_period: Vec<(String, Duration)>,
    /// The most time that a pod gets to end when a soft threshold is crossed, in seconds [default: 0]
    #[arg(long, value_name = "SECONDS")]
    eviction_max_pod_grace_period: Option<u32>,
}

/// A signal and a duration.
fn period(text: &str) -> Result<(String, Duration), String> {
    let (signal, period) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no SIGNAL=DURATION"))?;
    Ok((signal.to_owned(), duration(period)?))
}

impl EvictionOptions {
    /// The hard thresholds and the soft ones.
    pub(super) fn resolve(self) -> anyhow::Result<(EvictionThresholds, SoftEviction)> {
        let grace = u64::from(self.eviction_max_pod_grace_period.unwrap_or_default());
        let soft = SoftEviction::new(
            self.eviction_soft.unwrap_or_else(EvictionThresholds::none),
            &self.eviction_soft_grace_period,
            Duration::from_secs(grace),
        );
        let soft = soft.context("cannot use --eviction-soft")?;
        Ok((self.eviction_hard.unwrap_or_default(), soft))
    }
}
