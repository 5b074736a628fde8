//! What can go wrong, in the words that a kernel has for it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

/// Why a [`FabricConfig`](crate::FabricConfig) was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `pod_cidr` leaves no address for a pod, or is larger than a node can use.
    #[error("the pod network {0} is not between /8 and /30")]
    PodCidr(ipnet::Ipv4Net),
    /// `own_cidr` is not within `pod_cidr`, or leaves no address for a pod.
    #[error("the fabric's part {0} is not one of the pod network {1}, or is smaller than /30")]
    OwnCidr(ipnet::Ipv4Net, ipnet::Ipv4Net),
    /// `cluster_domain` is not a DNS name.
    #[error("the cluster domain {0:?} is not a DNS name")]
    ClusterDomain(String),
    /// `ephemeral_ports` is empty or contains port 0.
    #[error("the range of ephemeral ports is empty or contains port 0")]
    EphemeralPorts,
    /// A size or a limit is outside of what makes sense.
    #[error("{name} must be between {min} and {max}, not {value}")]
    OutOfRange {
        /// The field.
        name: &'static str,
        /// What it was.
        value: usize,
        /// The least that is accepted.
        min: usize,
        /// The most that is accepted.
        max: usize,
    },
}

/// Why a pod got no network.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// Every address of the pod network is in use.
    #[error("no address is free in the pod network {cidr} ({capacity} addresses)")]
    Exhausted {
        /// The pod network.
        cidr: ipnet::Ipv4Net,
        /// How many pods it can hold.
        capacity: usize,
    },
    /// The wanted address is in use.
    #[error("the address {0} is in use")]
    InUse(IpAddr),
    /// The wanted address is not one of the pod network's, or is reserved in it (network, gateway, broadcast).
    #[error("the address {0} is not available in the pod network {1}")]
    NotAvailable(IpAddr, ipnet::Ipv4Net),
}

/// Why a socket operation failed. Each variant is the kernel's error of that name; `From` gives the [`io::Error`] of
/// the matching [`io::ErrorKind`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// `EADDRINUSE`: another socket of the pod holds the port.
    #[error("address {0} is in use")]
    AddrInUse(SocketAddr),
    /// `EADDRNOTAVAIL`: the address is not one of the pod's, or there is no free ephemeral port.
    #[error("address {0} is not available")]
    AddrNotAvailable(SocketAddr),
    /// `ECONNREFUSED`: nobody listens there, or the Service has no ready endpoint.
    #[error("connection to {0} refused")]
    ConnectionRefused(SocketAddr),
    /// `EHOSTUNREACH`: no pod has this address.
    #[error("no route to host {0}")]
    HostUnreachable(SocketAddr),
    /// `ENETUNREACH`: the address is outside of the virtual network, and the fabric may not dial it.
    #[error("network of {0} is unreachable")]
    NetworkUnreachable(SocketAddr),
    /// `ETIMEDOUT`: the listener's backlog stayed full, or an outside address did not answer.
    #[error("connection to {0} timed out")]
    TimedOut(SocketAddr),
    /// `EACCES`: a policy forbids the connection.
    #[error("connection to {0} denied by policy")]
    Denied(SocketAddr),
    /// `EMFILE`: the pod has as many sockets or connections as it may have.
    #[error("too many {what}: the limit is {limit}")]
    TooMany {
        /// What there are too many of: "connections", "ports", ...
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// `EMSGSIZE`: the datagram is longer than a datagram may be.
    #[error("datagram of {length} bytes is too long: the limit is {limit}")]
    MessageTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// `ENETDOWN`: the pod's network, or this listener, is closed.
    #[error("the network is down")]
    Closed,
    /// A socket of the host failed in a way that has no variant of its own.
    #[error("host socket")]
    Host(#[from] io::Error),
}

impl NetError {
    /// The kind of [`io::Error`] that a program expects for this.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::AddrInUse(_) => io::ErrorKind::AddrInUse,
            Self::AddrNotAvailable(_) => io::ErrorKind::AddrNotAvailable,
            Self::ConnectionRefused(_) => io::ErrorKind::ConnectionRefused,
            Self::HostUnreachable(_) => io::ErrorKind::HostUnreachable,
            Self::NetworkUnreachable(_) => io::ErrorKind::NetworkUnreachable,
            Self::TimedOut(_) => io::ErrorKind::TimedOut,
            Self::Denied(_) => io::ErrorKind::PermissionDenied,
            Self::TooMany { .. } => io::ErrorKind::QuotaExceeded,
            Self::MessageTooLong { .. } => io::ErrorKind::InvalidInput,
            Self::Closed => io::ErrorKind::NetworkDown,
            Self::Host(error) => error.kind(),
        }
    }

    /// Whether another endpoint of a Service may do better.
    pub(crate) fn is_endpoint_dead(&self) -> bool {
        matches!(
            self,
            Self::ConnectionRefused(_)
                | Self::HostUnreachable(_)
                | Self::NetworkUnreachable(_)
                | Self::TimedOut(_)
                | Self::Closed
        )
    }

    /// The error of a failed dial to `to` by a socket of the host.
    pub(crate) fn of_dial(error: io::Error, to: SocketAddr) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused(to),
            io::ErrorKind::HostUnreachable => Self::HostUnreachable(to),
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable(to),
            io::ErrorKind::TimedOut => Self::TimedOut(to),
            _ => Self::Host(error),
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Host(error) => error,
            other => Self::new(other.kind(), other),
        }
    }
}

/// Why a name has no address.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a DNS name: empty, longer than 253 bytes, or with an empty or overlong label.
    #[error("{0:?} is not a DNS name")]
    Invalid(String),
    /// Nobody has this name.
    #[error("no address for the name {0:?}")]
    NotFound(String),
    /// The host's resolver could not be asked or did not answer; asking again may help.
    #[error("looking up {name:?} outside of the cluster")]
    Outside {
        /// The name.
        name: String,
        /// What the host's resolver said.
        source: io::Error,
    },
    /// The pod's network is closed.
    #[error("the network is down")]
    Closed,
}

impl From<ResolveError> for io::Error {
    fn from(error: ResolveError) -> Self {
        let kind = match &error {
            ResolveError::Invalid(_) => io::ErrorKind::InvalidInput,
            ResolveError::NotFound(_) => io::ErrorKind::NotFound,
            ResolveError::Outside { source, .. } => source.kind(),
            ResolveError::Closed => io::ErrorKind::NetworkDown,
        };
        Self::new(kind, error)
    }
}
