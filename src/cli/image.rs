//! `vaquita image`: the images that pods on this machine can use. Works on the data directory and registries alone, so it
//! does not matter whether the cluster runs.

use std::{io::IsTerminal as _, path::PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use vaquita_image::{Credential, Credentials, Image, ImageStore, Progress, Reference, Registries};

use super::{DataDir, registries::RegistryOptions};

/// Options of `vaquita image`.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ImageCommand {
    /// Make an image of a Wasm file (a core module or a component) and name it.
    Load {
        /// The .wasm file.
        file: PathBuf,
        /// The image's name, as a pod's `image` field will say it.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// List images.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Bring an image in from its registry.
    Pull {
        /// The image's name.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        #[command(flatten)]
        registries: RegistryOptions,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Bring an image to a registry.
    Push {
        /// The image's name, which says where to.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        #[command(flatten)]
        registries: RegistryOptions,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Give an image another name besides its own.
    Tag {
        /// The image's name.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        /// The other name.
        #[arg(value_name = "NEW-NAME:TAG")]
        name: String,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Tell all about an image, as JSON.
    Inspect {
        /// The image's name.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Forget an image. Pods that run it go on.
    #[command(visible_alias = "rm")]
    Remove {
        /// The image's name.
        #[arg(value_name = "NAME:TAG")]
        reference: String,
        #[command(flatten)]
        data_dir: DataDir,
    },
}

pub(super) async fn run(args: ImageArgs) -> anyhow::Result<()> {
    match args.command {
        ImageCommand::Load {
            file,
            reference,
            data_dir,
        } => {
            let image = open(data_dir)?
                .load_file(&reference, &file)
                .with_context(|| format!("cannot load {}", file.display()))?;
            println!("{} {}", image.reference, image.digest);
        }
        ImageCommand::Pull {
            reference,
            registries,
            data_dir,
        } => {
            let (store, registries) = (open(data_dir)?, Registries::new(registries.resolve()?));
            let who = credential(&reference)?;
            let bar = Bar::new();
            let pulled = registries.pull(&store, &reference, who.as_slice(), &bar);
            let image = pulled.await.context("cannot pull the image")?;
            println!("{} {}", image.reference, image.digest);
        }
        ImageCommand::Push {
            reference,
            registries,
            data_dir,
        } => {
            let (store, registries) = (open(data_dir)?, Registries::new(registries.resolve()?));
            let who = credential(&reference)?.unwrap_or_else(Credential::anonymous);
            let bar = Bar::new();
            let pushed = registries.push(&store, &reference, &reference, &who, &bar);
            let digest = pushed.await.context("cannot push the image")?;
            println!("{reference} {digest}");
        }
        ImageCommand::Tag {
            reference,
            name,
            data_dir,
        } => {
            let image = open(data_dir)?.tag(&reference, &name)?;
            let image = image.with_context(|| format!("there is no image {reference}"))?;
            println!("{} {}", image.reference, image.digest);
        }
        ImageCommand::Inspect {
            reference,
            data_dir,
        } => {
            let image = open(data_dir)?.get(&reference)?;
            let image = image.with_context(|| format!("there is no image {reference}"))?;
            println!("{:#}", described(&image));
        }
        ImageCommand::List { data_dir } => list(&open(data_dir)?.list()?),
        ImageCommand::Remove {
            reference,
            data_dir,
        } => {
            anyhow::ensure!(
                open(data_dir)?.remove(&reference)?,
                "there is no image {reference}"
            );
        }
    }
    Ok(())
}

fn list(images: &[Image]) {
    let names = images.iter().map(|image| image.reference.len());
    let width = names.max().unwrap_or(0).max(5);
    println!(
        "{:<width$}  {:<19}  {:<14}  {:>10}",
        "IMAGE", "DIGEST", "KIND", "SIZE"
    );
    for image in images {
        let digest: String = image.digest.to_string().chars().take(19).collect();
        let (name, kind) = (&image.reference, image.kind.to_string());
        println!(
            "{name:<width$}  {digest:<19}  {kind:<14}  {:>10}",
            image.size
        );
    }
}

fn described(image: &Image) -> serde_json::Value {
    json!({
        "name": image.reference,
        "digest": &*image.digest,
        "kind": image.kind.to_string(),
        "size": image.size,
        "path": image.path,
        "config": image.start,
    })
}

/// Who we are to the image's registry, by Docker's configuration.
fn credential(reference: &str) -> anyhow::Result<Option<Credential>> {
    let reference: Reference = reference.parse()?;
    Ok(Credentials::from_home(&reference)?)
}

/// Shows a transfer to a person at a terminal; nothing to anybody else.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }
}

impl Progress for Bar {
    fn begin(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn open(data_dir: DataDir) -> anyhow::Result<ImageStore> {
    let dir = data_dir.resolve()?.join("images");
    ImageStore::open(&dir).with_context(|| format!("cannot open the image store {}", dir.display()))
}
