//! The object model: resource registry, metadata, selectors, patches, defaults, validation and Status.
//!
//! Nothing here does I/O. The working representation of an object is its JSON, [`Object`]; each kind's rules read it
//! through the types of `k8s-openapi`. Enter at [`registry::Registry`]: it holds a [`registry::Resource`] for each kind that
//! is served, and a request's way through the object model is the order of that type's methods.

pub mod body;
pub mod field;
mod kinds;
pub mod meta;
pub mod names;
pub mod patch;
pub mod pod {
    //! What is done to pods by other ways than writing them.

    pub use crate::kinds::pod::{BindError, bind};
}
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod service {
    //! What services need to be given, and where it is written.

    pub use crate::kinds::service::{
        cluster_ips, needs_cluster_ip, needs_node_ports, node_ports, set_cluster_ip, set_node_port,
    };
}
pub mod status;
pub mod table;
mod validate;

/// An API object, or any part of one, as JSON.
pub type Object = serde_json::Map<String, serde_json::Value>;
