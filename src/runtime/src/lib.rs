//! Pods of WebAssembly modules, embeddable without a control plane.
