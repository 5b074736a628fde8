//! What an image is, by what its documents say.

use std::path::Path;

use crate::{
    ImageError,
    config::{ImageConfig, StartConfig},
    layout::{Descriptor, Layout, Manifest},
    media,
    store::shortened,
};

/// By this annotation or label, the authors of ordinary images say that their entry point is WebAssembly.
const VARIANT: &str = "module.wasm.image/variant";

/// What an image is.
pub(crate) enum Contents {
    /// A module or component that is a layer as it is.
    Module {
        layer: Descriptor,
        start: Option<StartConfig>,
    },
    /// A module or component that is a file in its layers.
    File {
        path: String,
        start: Option<StartConfig>,
    },
    /// A Spin application, described by its configuration.
    Spin,
    /// The files of a Linux container.
    Linux { start: Option<StartConfig> },
}

impl Contents {
    /// Reads it off the manifest and, where there is one for people, the configuration.
    pub(crate) fn of(
        layout: &Layout,
        reference: &str,
        manifest: &Manifest,
    ) -> Result<Self, ImageError> {
        let config = if media::is_image_config(&manifest.config.media_type) {
            Some(layout.read_json::<ImageConfig>(&manifest.config)?)
        } else {
            None
        };
        if manifest.config.media_type == media::SPIN {
            return Ok(Self::Spin);
        }
        if let Some(layer) = media::module_layer(manifest) {
            return Ok(Self::Module {
                layer: layer.clone(),
                start: config.and_then(|config| config.config),
            });
        }
        let not_wasm = |found: String| ImageError::NotWasm {
            reference: reference.to_owned(),
            found,
        };
        let Some(config) = config else {
            let first = manifest.layers.first();
            let found = first.map_or("no layer", |layer| &layer.media_type);
            return Err(not_wasm(format!("its content is {}", shortened(found))));
        };
        let start = config.config.clone().unwrap_or_default();
        if let Some(path) = module_path(&config, &start, manifest) {
            let start = config.config;
            return Ok(Self::File { path, start });
        }
        // Images from before there were other systems do not name one.
        if config.os == "linux" || config.os.is_empty() {
            return Ok(Self::Linux {
                start: config.config,
            });
        }
        let platform = config.platform();
        Err(not_wasm(format!("it is for {}", shortened(&platform))))
    }

    pub(crate) fn is_linux(&self) -> bool {
        matches!(self, Self::Linux { .. })
    }
}

/// The path of the file that an ordinary image starts, if that is WebAssembly by what the image says.
fn module_path(config: &ImageConfig, start: &StartConfig, manifest: &Manifest) -> Option<String> {
    let program = start.program().unwrap_or_default();
    // The entry point may name a function of the module behind a `#`.
    let path = program.split('#').next().unwrap_or_default();
    let has_extension = Path::new(path)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("wasm"));
    let variant = manifest
        .annotations
        .get(VARIANT)
        .or_else(|| start.labels.get(VARIANT));
    let is_marked = variant.is_some_and(|variant| variant.starts_with("compat"));
    (config.is_wasm() || has_extension || is_marked).then(|| path.to_owned())
}
