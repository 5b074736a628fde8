//! The object model: resource registry, metadata, selectors, patches, defaults, validation and Status.
