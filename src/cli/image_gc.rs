//! When images are removed that nobody needs. The options have the names that the kubelet's settings have.

use std::time::Duration;

use vaquita_node::ImageGc;

use super::up::duration;

/// Options about images that nobody needs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Images that nobody needs")]
#[expect(
    clippy::struct_field_names,
    reason = "they are the names of the options, as the kubelet has them"
)]
pub(super) struct ImageGcOptions {
    /// Percentage of the disk in use from which on unused images are removed; 100: never [default: 85]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: Option<u8>,
    /// Percentage of the disk in use at which that ends [default: 80]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: Option<u8>,
    /// How long an image is kept in any case [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    image_minimum_gc_age: Option<Duration>,
    /// Remove images that were not used for so long, however empty the disk is [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    image_maximum_gc_age: Option<Duration>,
}

impl ImageGcOptions {
    /// With defaults for what is not said.
    pub(super) fn resolve(self) -> anyhow::Result<ImageGc> {
        let default = ImageGc::default();
        let resolved = ImageGc {
            high_percent: self.image_gc_high_threshold.unwrap_or(default.high_percent),
            low_percent: self.image_gc_low_threshold.unwrap_or(default.low_percent),
            min_age: self.image_minimum_gc_age.unwrap_or(default.min_age),
            max_age: self.image_maximum_gc_age,
        };
        anyhow::ensure!(
            resolved.low_percent < resolved.high_percent,
            "--image-gc-low-threshold must be below --image-gc-high-threshold: {} is not below {}",
            resolved.low_percent,
            resolved.high_percent
        );
        Ok(resolved)
    }
}
