//! Pods of Linux containers, run by a Docker engine.
//!
//! This crate knows the Docker Engine API and takes its own plain description of a pod; it knows nothing of Kubernetes.
