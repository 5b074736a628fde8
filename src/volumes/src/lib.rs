//! Volumes of pods on disk: what a kubelet lays out for the containers of a pod to mount.
//!
//! Enter at [`Store`]: a [`PodVolumes`] sets up the volumes that a pod's manifest names, one by one
//! ([`PodVolumes::mount`]), and keeps those current which the cluster fills ([`PodVolumes::refresh`]). What is where:
//!
//! - [`layout`]: directories, as upstream's kubelet has them, and what is removed when.
//! - [`fill`]: from config maps, secrets, the pod's own fields and tokens to a [`Payload`] of files; [`tokens`] keeps
//!   tokens until they are to be renewed, [`fields`] reads the pod's own fields.
//! - [`atomic`]: writes a payload so that readers see all of it or nothing.
//! - [`host_path`], [`claims`]: directories that are not the pod's own.
//!
//! Nothing here mounts anything: who runs the containers does, with the [`Mounted`] places.

pub mod atomic;
pub mod claims;
pub mod fields;
pub mod fill;
pub mod host_path;
pub mod layout;
mod mount;
mod ownership;
mod payload;
mod sources;
pub mod tokens;

pub use layout::Store;
pub use mount::{MountError, Mounted, Place, PodVolumes};
pub use payload::{File, PathError, Payload};
pub use sources::{Sources, Token};
