//! What documents and layers call themselves, and which of them this store understands.

use crate::layout::{Descriptor, Manifest};

/// The configuration of a Spin application.
pub(crate) const SPIN: &str = "application/vnd.fermyon.spin.application.v1+config";
/// Several files of a Spin application in one archive.
pub(crate) const SPIN_FILES: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";

/// A manifest of one image, of the OCI and of Docker.
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// A list of manifests, one for each platform.
pub(crate) const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// All that a registry may answer with when it is asked for an image.
pub(crate) const ACCEPTED: [&str; 4] = [MANIFESTS[0], MANIFESTS[1], INDEXES[0], INDEXES[1]];

/// Layers that are a module or component as it is: of the CNCF's artifact layout, of runwasi, and from before there was a
/// convention.
const MODULE_LAYERS: [&str; 5] = [
    "application/wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.w3c.wasm.module.v1+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// Configurations of ordinary images: what to start, and the platform that it is for.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

pub(crate) fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

pub(crate) fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

pub(crate) fn is_image_config(media_type: &str) -> bool {
    IMAGE_CONFIGS.contains(&media_type)
}

/// The layer that is the module or component, if there is one. Where everything calls itself by unknown names, an only layer
/// may be one: its bytes will tell.
pub(crate) fn module_layer(manifest: &Manifest) -> Option<&Descriptor> {
    let is_module = |layer: &&Descriptor| MODULE_LAYERS.contains(&layer.media_type.as_str());
    let known = manifest.layers.iter().find(is_module);
    known.or_else(|| match manifest.layers.as_slice() {
        [only]
            if !is_image_config(&manifest.config.media_type)
                && packing(&only.media_type).is_none() =>
        {
            Some(only)
        }
        _ => None,
    })
}

/// How a layer of files is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// An archive as it is.
    Tar,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zstd.
    Zstd,
}

/// How a layer of files is packed; `None` if it is something else.
pub(crate) fn packing(media_type: &str) -> Option<Packing> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(Packing::Tar),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Some(Packing::Zstd),
        _ => None,
    }
}

/// What a layer of files calls itself.
pub(crate) fn layer_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Tar => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
