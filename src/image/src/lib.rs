//! OCI images: the local content store and what kind of artifact an image is.
