//! What a pod's manifest says, read with its defaults.
//!
//! `container` is the life of containers: what each is for, when it is started again, how much it may use;
//! `environment` its variables and arguments; `names` by which names a pod knows itself and others, in
//! [`sandbox_config`]; `http_settings` how it serves HTTP; `native` what only containers on the machine's kernel have;
//! `features` what modules cannot have. All of it is pure, but for the objects that an environment refers to.

mod container;
mod environment;
mod features;
mod http_settings;
mod names;
mod native;

pub use container::{
    Amount, RestartPolicy, Restarting, Role, ephemeral_containers, full_name, init_containers,
    init_role, memory_limit, millicores, own_grace, resources, tcp_ports,
};
pub use environment::{
    ConfigProblem, Place, add_image_variables, arguments, environment, expand_strictly,
    native_arguments,
};
pub use features::unsupported;
pub use http_settings::http_settings;
pub use names::sandbox_config;
pub use native::{native, part, propagation};

/// What the pods of a node can have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// How many pods; more are refused.
    pub pods: u32,
}
