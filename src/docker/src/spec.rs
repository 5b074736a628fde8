//! What is to be run, in plain values.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// A pod: what its containers share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Tells it from every other pod there ever was.
    pub uid: String,
    /// Its namespace, for people who look at the engine.
    pub namespace: String,
    /// Its name, for people.
    pub name: String,
    /// What `hostname` says in it. Without effect in the host's network.
    pub hostname: String,
    /// Where it is on the network.
    pub network: Network,
    /// Ports of the machine that lead to it.
    pub ports: Vec<HostPort>,
    /// Whose processes its containers see.
    pub processes: Processes,
    /// Whether it has the machine's own IPC objects.
    pub host_ipc: bool,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Volumes in memory, which live as long as the pod.
    pub memory_volumes: Vec<MemoryVolume>,
}

/// A volume in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryVolume {
    /// Its name in the pod.
    pub name: String,
    /// Bytes that it can hold; `None`: half of the machine's memory.
    pub size: Option<u64>,
    /// The group that it and all that is made in it belongs to; `None`: whoever makes something.
    pub group: Option<u32>,
}

/// Where a pod is on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// On the shim's network, with an address of its own.
    Bridge {
        /// The address that it gets if that is free.
        wanted: Option<Ipv4Addr>,
    },
    /// On the machine's own.
    Host,
}

impl Default for Network {
    fn default() -> Self {
        Self::Bridge { wanted: None }
    }
}

/// Whose processes the containers of a pod see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Processes {
    /// Each its own.
    #[default]
    Own,
    /// Those of the whole pod.
    Pod,
    /// Those of the machine.
    Host,
}

/// A port of the machine that leads to one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The pod's port.
    pub port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
    /// The machine's port.
    pub host_port: u16,
    /// The machine's address; `None`: all.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// How many containers of that name the pod had before.
    pub attempt: u32,
    /// The image: a name or an identifier that the engine knows.
    pub image: String,
    /// The whole argument vector, the program first. Nothing of the image's own is added.
    pub args: Vec<String>,
    /// The environment, beside what the image says.
    pub env: Vec<(String, String)>,
    /// Where it starts; `None`: where the image says.
    pub working_dir: Option<String>,
    /// What of the machine's files it sees.
    pub binds: Vec<Bind>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub stdin: bool,
    /// Whether that ends with what whoever started it writes there; else it never does.
    pub stdin_once: bool,
    /// The signal that asks it to end, by its name or number; `None`: `SIGTERM`.
    pub stop_signal: Option<String>,
    /// What it may use.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// Devices of the machine that it may use.
    pub devices: Vec<Device>,
}

/// A file or directory of the machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// What it is.
    pub source: Source,
    /// Where the container finds it: an absolute path.
    pub target: String,
    /// Whether it can only be read there.
    pub read_only: bool,
    /// How mounts pass through it, in the engine's words: `rprivate`, `rslave`, `rshared`. `None`: `rprivate`.
    pub propagation: Option<&'static str>,
}

/// What a container finds at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the engine's machine. It must exist when the container starts.
    Path(PathBuf),
    /// The pod's volume in memory of that name.
    Memory(String),
}

/// A device of the machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it is on the engine's machine.
    pub source: PathBuf,
    /// Where the container finds it.
    pub target: String,
}

/// What a container may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory; `None`: all. There is no swap beside it.
    pub memory: Option<u64>,
    /// Thousandths of a core; `None`: all.
    pub cpu_limit: Option<u32>,
    /// Thousandths of a core that it gets when all want some.
    pub cpu_request: Option<u32>,
    /// How many processes and threads; `None`: as many as the engine allows.
    pub pids: Option<u32>,
    /// How gladly the kernel kills it when memory is short, -1000 (never) to 1000.
    pub oom_score: i32,
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own, as the engine has them"
)]
pub struct Security {
    /// User and group, `UID:GID`, `UID` or `NAME`; `None`: as the image says.
    pub user: Option<String>,
    /// Further groups.
    pub groups: Vec<i64>,
    /// Everything that the machine's superuser may.
    pub privileged: bool,
    /// Whether only its volumes can be written.
    pub read_only_root: bool,
    /// Whether `setuid` programs and the like give nothing.
    pub no_new_privileges: bool,
    /// Capabilities beside the engine's usual ones, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities that it does not have.
    pub drop_capabilities: Vec<String>,
    /// Which system calls it may make.
    pub seccomp: Profile,
    /// Which `AppArmor` profile holds it.
    pub apparmor: Profile,
    /// `SELinux` options, each `user:...`, `role:...`, `type:...` or `level:...`.
    pub selinux: Vec<String>,
    /// Whether all of `/proc` and `/sys` can be seen and written as far as its rights go.
    pub unmasked: bool,
}

/// A profile of a security module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Profile {
    /// The engine's own.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// This one: for seccomp its JSON text, for `AppArmor` its name.
    Given(String),
}
