//! Tests across crates. One binary; a module for each theme; everything about starting clusters is in [`harness`].
//!
//! They run the real `vaquita` binary and talk to it as users do: by `kubectl`, by HTTP, by signals. The guests must
//! have been built before: `cargo task test` does that.

mod backends;
mod bad_input;
mod command_line;
mod contract;
mod control;
mod conversation;
mod docker;
mod docker_archives;
mod docker_guestbook;
mod docker_images;
mod embedded;
mod exec;
mod faults;
mod golden;
mod harness;
mod helm;
mod images;
mod ingress;
mod kernel_network;
mod kubelet;
mod layering;
mod mixed;
mod pods;
mod python;
mod restart;
mod rust_client;
mod scale_to_zero;
mod scheduling;
mod services;
mod spin;
mod streams;
mod volumes;
mod watches;
mod workloads;
