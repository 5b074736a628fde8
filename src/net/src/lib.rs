//! The virtual network of a node. It passes connections, not packets.
//!
//! A [`Fabric`] gives each pod a [`PodNetwork`]: an address, a loopback and a port space, shared by all modules of the
//! pod. A connect inside the node finds the [`Listener`] in the target pod and gives both sides one end of a memory
//! pipe, a [`Stream`]; there are no packets, no copies and no tasks in between. An address of a Service
//! ([`Fabric::services`]) is nobody's: the connect chooses an endpoint behind it, once. A connection from the host (a
//! node port, port forwarding) enters as the real socket that the kernel accepted: to the pod it is a [`Stream`] like
//! any other.
//!
//! Datagrams ([`UdpSocket`]) travel from mailbox to mailbox; to the outside, where that is allowed, by sockets of the host.
//!
//! Pods may also live beside the fabric, in a network of the kernel: an [`Uplink`] is the way to them, [`Fabric::enter`]
//! their way in. What has to be done for those by a filter of packets is told to it: see [`Fabric::changes`].
//!
//! A name is looked up in tables ([`PodNetwork::resolve`], [`Fabric::names`]), with no DNS server in between; for those who
//! ask by DNS, there is one over the same tables ([`Fabric::serve_dns`]).
//!
//! [`Policies`] say who may connect to whom.
//!
//! Whatever a guest can fill has a bound: see [`FabricConfig`] and [`PodLimits`].
//!
//! ```
//! # use std::net::SocketAddr;
//! # use bytes::Bytes;
//! use vaquita_net::{Fabric, FabricConfig};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let fabric = Fabric::new(FabricConfig::default())?;
//! let (server, client) = (fabric.attach(None)?, fabric.attach(None)?);
//! let listener = server.listen("0.0.0.0:8080".parse()?)?;
//!
//! let near = client.connect(SocketAddr::new(server.ip(), 8080)).await?;
//! let (far, peer) = listener.accept().await?;
//! assert_eq!(peer.ip(), client.ip());
//!
//! near.write_bytes(Bytes::from_static(b"hello")).await?;
//! assert_eq!(far.read_bytes(1024).await?, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap(); Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod beside;
mod config;
mod counters;
mod dns;
mod error;
mod fabric;
mod host;
mod host_datagrams;
mod host_pod;
mod host_port;
mod listener;
mod names;
#[cfg(target_os = "linux")]
mod namespace;
mod outward;
mod payer;
mod pipe;
mod pod;
mod policy;
mod pool;
mod ports;
mod records;
mod service;
mod stream;
mod sync;
mod udp;
mod uplink;
mod wake;

pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};

#[cfg(target_os = "linux")]
pub use crate::namespace::NetworkNamespace;
pub use crate::{
    beside::{Changed, Guard, Passage, PassagePorts, PeerAddresses, ServedPort},
    config::{FabricConfig, Outside, PodLimits},
    counters::Metrics,
    dns::{DnsSockets, DnsTask, fuzz_answer},
    error::{AttachError, ConfigError, NetError, ResolveError},
    fabric::{Fabric, Names},
    listener::{Listener, Shortcut},
    names::{Lookups, PodIdentity},
    payer::Payer,
    pod::{Activity, BoundPort, Call, PodNetwork, PodStats, Reached},
    policy::{
        Attempt, ConnectPolicy, Labels, Origin, Peer, Policies, PolicyPod, PolicySpec, PortMatch,
        PortRange, Requirement, Rule, Selector,
    },
    service::{
        Affinity, HostPort, HostPortError, PortRef, Protocol, ServiceHost, ServiceKey, ServicePort,
        ServiceSpec, Services,
    },
    stream::Stream,
    udp::{Datagram, UdpSocket},
    uplink::{Connecting, Established, Neighbour, Uplink},
    wake::Wake,
};
