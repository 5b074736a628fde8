//! `vaquita image`: the images that pods on this machine can use. Works on the data directory and registries alone, so it
//! does not matter whether the cluster runs.

use std::{
    fs::{File, Permissions},
    io::{BufRead, BufReader, BufWriter, IsTerminal as _, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use vaquita_image::{
    ArchiveLimits, Credential, Credentials, Image, ImageStore, MAX_MODULE_BYTES, Progress,
    Reference, Registries,
};

use super::{DataDir, registries::RegistryOptions};

/// Options of `vaquita image`.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ImageCommand {
    /// Make an image of a Wasm file (a core module or a component) and name it, or take in the images of an archive.
    Load {
        /// The .wasm file, or an archive as `docker save` and `vaquita image save` write it; `-` or nothing: standard input.
        file: Option<PathBuf>,
        /// The image's name, as a pod's `image` field will say it. Images of archives have names of their own.
        #[arg(value_name = "NAME:TAG")]
        reference: Option<String>,
        /// The most that is taken from an archive, in bytes
        #[arg(long, value_name = "BYTES", default_value_t = ArchiveLimits::default().max_bytes)]
        max_image_bytes: u64,
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Write images into an archive that `docker load` and `vaquita image load` take.
    Save {
        /// The images' names.
        #[arg(value_name = "NAME:TAG", required = true)]
        references: Vec<String>,
        /// Where to; otherwise to standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
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
            max_image_bytes,
            data_dir,
        } => {
            let limits = ArchiveLimits {
                max_bytes: max_image_bytes,
                ..ArchiveLimits::default()
            };
            let file = file.filter(|file| file.as_os_str() != "-");
            for image in load(
                &open(data_dir)?,
                file.as_deref(),
                reference.as_deref(),
                limits,
            )? {
                println!("{} {}", image.reference, image.digest);
            }
        }
        ImageCommand::Save {
            references,
            output,
            data_dir,
        } => save(&open(data_dir)?, &references, output.as_deref())?,
        ImageCommand::Pull {
            reference,
            registries,
            data_dir,
        } => {
            let (store, registries) = (open(data_dir)?, Registries::new(registries.resolve()?));
            let who = credential(&reference)?;
            let bar = Bar::new(&reference);
            let pulled = registries.pull(&store, &reference, who.as_slice(), &bar);
            let pulled = pulled.await;
            // What is said now stands in its place.
            drop(bar);
            let image = pulled.context("cannot pull the image")?;
            println!("{} {}", image.reference, image.digest);
        }
        ImageCommand::Push {
            reference,
            registries,
            data_dir,
        } => {
            let (store, registries) = (open(data_dir)?, Registries::new(registries.resolve()?));
            let who = credential(&reference)?.unwrap_or_else(Credential::anonymous);
            let bar = Bar::new(&reference);
            let pushed = registries.push(&store, &reference, &reference, &who, &bar);
            let pushed = pushed.await;
            drop(bar);
            let digest = pushed.context("cannot push the image")?;
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

/// Loads what a file or standard input holds: a module under a name, or the images of an archive.
fn load(
    store: &ImageStore,
    file: Option<&Path>,
    name: Option<&str>,
    limits: ArchiveLimits,
) -> anyhow::Result<Vec<Image>> {
    let shown = file.map_or("standard input".into(), Path::to_string_lossy);
    let doing = || format!("cannot load {shown}");
    let mut from: Box<dyn BufRead> = if let Some(file) = file {
        Box::new(BufReader::new(File::open(file).with_context(doing)?))
    } else {
        anyhow::ensure!(
            !std::io::stdin().is_terminal(),
            "nothing to load: give a file, or an archive on standard input"
        );
        Box::new(std::io::stdin().lock())
    };
    if is_archive(from.fill_buf().with_context(doing)?) {
        return store.load_archive(from, name, limits).with_context(doing);
    }
    let name = name.context("a module needs a name: vaquita image load FILE NAME:TAG")?;
    let image = if let Some(file) = file {
        store.load_file(name, file)
    } else {
        let mut wasm = Vec::new();
        let mut from = from.take(MAX_MODULE_BYTES + 1);
        from.read_to_end(&mut wasm).with_context(doing)?;
        store.load(name, &wasm)
    };
    Ok(vec![image.with_context(doing)?])
}

/// Whether bytes begin as an archive does, packed or not.
fn is_archive(start: &[u8]) -> bool {
    let is_packed = start.starts_with(b"\x1f\x8b") || start.starts_with(b"\x28\xb5\x2f\xfd");
    is_packed || start.get(257..262) == Some(b"ustar")
}

fn save(store: &ImageStore, references: &[String], to: Option<&Path>) -> anyhow::Result<()> {
    let references: Vec<&str> = references.iter().map(String::as_str).collect();
    let Some(path) = to else {
        let out = std::io::stdout();
        anyhow::ensure!(
            !out.is_terminal(),
            "an archive is nothing for a terminal: name a file with --output"
        );
        return Ok(store.save(&references, out.lock())?);
    };
    let doing = || format!("cannot write {}", path.display());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Whoever looks at the file finds the whole archive.
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .with_context(doing)?;
    store.save(&references, BufWriter::new(&mut file))?;
    file.persist(path).with_context(doing)?;
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
    match Credentials::from_home(&reference) {
        Ok(credential) => Ok(credential),
        Err(error) => {
            // Much is open to everybody.
            eprintln!("vaquita: {error}: trying without");
            Ok(None)
        }
    }
}

/// Shows a transfer to a person at a terminal; nothing to anybody else.
struct Bar(ProgressBar);

impl Bar {
    fn new(image: &str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(image.to_owned());
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
