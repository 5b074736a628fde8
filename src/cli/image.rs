//! `vaquita image`: the images that pods on this machine can use. Works on the data directory alone, so it does not
//! matter whether the cluster runs.

use std::path::PathBuf;

use anyhow::Context as _;
use vaquita_image::ImageStore;

use super::DataDir;

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

#[expect(
    clippy::unused_async,
    reason = "every command is one future to `cli::main`"
)]
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
        ImageCommand::List { data_dir } => {
            let images = open(data_dir)?.list()?;
            let width = images
                .iter()
                .map(|image| image.reference.len())
                .max()
                .unwrap_or(0)
                .max(5);
            println!(
                "{:<width$}  {:<19}  {:<14}  {:>10}",
                "IMAGE", "DIGEST", "KIND", "SIZE"
            );
            for image in images {
                let digest: String = image.digest.to_string().chars().take(19).collect();
                println!(
                    "{:<width$}  {digest:<19}  {:<14}  {:>10}",
                    image.reference,
                    image.kind.to_string(),
                    image.size
                );
            }
        }
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

fn open(data_dir: DataDir) -> anyhow::Result<ImageStore> {
    let dir = data_dir.resolve()?.join("images");
    ImageStore::open(&dir).with_context(|| format!("cannot open the image store {}", dir.display()))
}
