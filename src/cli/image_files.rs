//! How much of an image is unpacked.

use vaquita_image::FilesLimits;

/// Options about the files of images.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Files of images")]
#[expect(
    clippy::struct_field_names,
    reason = "they are the names of the options"
)]
pub(super) struct ImageFilesOptions {
    /// The most bytes that are unpacked of an image; with more, its containers wait with `CreateContainerError`
    #[arg(long, value_name = "BYTES", default_value_t = FilesLimits::default().max_bytes)]
    max_unpacked_bytes: u64,
    /// The most files, directories and links of an image
    #[arg(long, value_name = "COUNT", default_value_t = FilesLimits::default().max_entries)]
    max_unpacked_files: u64,
    /// The most directories in each other in an image
    #[arg(long, value_name = "COUNT", default_value_t = FilesLimits::default().max_depth)]
    max_unpacked_depth: usize,
}

impl ImageFilesOptions {
    pub(super) fn resolve(self) -> FilesLimits {
        FilesLimits {
            max_bytes: self.max_unpacked_bytes,
            max_entries: self.max_unpacked_files,
            max_depth: self.max_unpacked_depth,
        }
    }
}
