//! How registries of images are reached: options that several commands share.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use vaquita_image::RegistriesConfig;

/// Options about registries of images.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Registries of images")]
pub(super) struct RegistryOptions {
    /// A registry whose certificate is not verified, and which may speak plain HTTP. Those on loopback always may
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
    /// Ask another registry first for the images of one, such as docker.io=mirror.example:5000
    #[arg(long, value_name = "REGISTRY=HOST[:PORT]", value_parser = mirror)]
    registry_mirror: Vec<(String, String)>,
    /// File with certificates (PEM) of authorities that registries' certificates may come from, besides the system's
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// The largest image that is pulled, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = RegistriesConfig::default().max_image_bytes)]
    max_image_bytes: u64,
}

fn mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((of, mirror)) if !of.is_empty() && !mirror.is_empty() => {
            Ok((of.to_owned(), mirror.to_owned()))
        }
        _ => Err("expected REGISTRY=HOST[:PORT]".to_owned()),
    }
}

impl RegistryOptions {
    /// Reads the files.
    pub(super) fn resolve(self) -> anyhow::Result<RegistriesConfig> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(RegistriesConfig {
            insecure: self.insecure_registry,
            mirrors: self.registry_mirror,
            authorities: self
                .registry_ca
                .iter()
                .map(read)
                .collect::<Result<_, _>>()?,
            max_image_bytes: self.max_image_bytes,
            ..RegistriesConfig::default()
        })
    }
}
