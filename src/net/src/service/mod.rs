//! Services: addresses that stand for several endpoints.
//!
//! A Service's address is nobody's: a connect to it picks an endpoint ([`balancer`]), once, and from then on the
//! connection is that endpoint's. The [`table`]s are snapshots: a connect reads the current one without a lock, a change
//! puts a new one in its place.

pub(crate) mod balancer;
pub(crate) mod table;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;

pub(crate) use self::{
    balancer::Balancer,
    table::{Found, ServiceTable},
};
use crate::{ServedPort, fabric::Inner};

/// Which Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Whether a client stays with one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Endpoints take turns.
    #[default]
    None,
    /// A client address gets the same endpoint again, as long as that one is there and less than `timeout` has passed
    /// since its last connect. Up to 8192 clients of a port are remembered; beyond them, the endpoint follows from both
    /// addresses, so that they stay too.
    ClientIp {
        /// How long a client is remembered after its last connect. Kubernetes' default is three hours.
        timeout: Duration,
    },
}

/// What a Service is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its own addresses. None: a headless Service, whose name leads to its endpoints.
    pub cluster_ips: Vec<IpAddr>,
    /// Further addresses of the Service, which lead to the host: of load balancers, external ones. Pods reach the Service
    /// by them as by its own; for clients outside, the host listens on those which are in the fabric's
    /// [`host_addresses`](crate::FabricConfig::host_addresses).
    pub external_ips: Vec<IpAddr>,
    /// Which clients outside may come by `external_ips`. Empty: all.
    pub sources: Vec<IpNet>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether a client stays with one endpoint.
    pub affinity: Affinity,
    /// Pods that have a name through the Service, and those that its own name leads to if it is headless. If there are
    /// none, a headless Service's name leads to the endpoints of its ports.
    pub hosts: Vec<ServiceHost>,
    /// The name that the Service's own is another word for. It has no addresses and ports then.
    pub external_name: Option<String>,
    /// Whether it can be given endpoints when they are needed: a connect that finds none is held, and the fabric's
    /// [`Wake`](crate::Wake) hook is told.
    pub wakes: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's own addresses.
    pub port: u16,
    /// The port at the host's address, if there is one.
    pub node_port: Option<u16>,
    /// Where connections go: the endpoints that are ready.
    pub endpoints: Vec<SocketAddr>,
    /// Where connections go that come in from outside, by the node port and the external addresses, if that is
    /// elsewhere: to endpoints of this node only, say.
    pub outside_endpoints: Option<Vec<SocketAddr>>,
}

/// Which port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// The one with this number.
    Number(u16),
    /// The one with this name.
    Name(String),
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHost {
    /// Its address.
    pub ip: IpAddr,
    /// Its hostname, if its name is `HOSTNAME.SERVICE.NAMESPACE.svc.DOMAIN`.
    pub hostname: Option<String>,
}

/// Why the host listens for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPort {
    /// A node port.
    Node,
    /// A port at one of the Service's external addresses.
    External,
}

/// A port of the host that could not be opened. The Service works otherwise; setting it again tries again.
#[derive(Debug, Error)]
#[error("port {address}/{protocol} for Service {service}")]
pub struct HostPortError {
    /// The Service that wants it.
    pub service: ServiceKey,
    /// What for.
    pub purpose: HostPort,
    /// Its protocol.
    pub protocol: Protocol,
    /// The address and port.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// The Services of a [`Fabric`](crate::Fabric).
#[derive(Clone)]
pub struct Services(Arc<Inner>);

impl Services {
    pub(crate) fn new(fabric: Arc<Inner>) -> Self {
        Self(fabric)
    }

    /// Makes a Service what `spec` says. Connections that exist stay with their endpoints; turns go on where they were.
    ///
    /// Opens and closes ports of the host, and gives back those that could not be opened. For this it must be called
    /// within a tokio runtime, which then serves them.
    #[must_use = "ports of the host may be taken by others"]
    pub fn set(&self, key: &ServiceKey, spec: &ServiceSpec) -> Vec<HostPortError> {
        let failed = self.0.services.set(&self.0, key, spec);
        self.0.changed.tell();
        failed
    }

    /// Removes a Service, if it is there, and closes its ports on the host. Connections that exist stay.
    pub fn remove(&self, key: &ServiceKey) {
        self.0.services.remove(key);
        self.0.changed.tell();
    }

    /// All ports at all addresses of Services, in the order of addresses.
    pub fn ports(&self) -> Vec<ServedPort> {
        self.0.services.served()
    }

    /// How many Services there are.
    pub fn count(&self) -> usize {
        self.0.services.count()
    }

    /// Node ports that are open on the host, with their addresses there.
    pub fn node_ports(&self) -> Vec<(Protocol, SocketAddr)> {
        self.0.services.host_ports(HostPort::Node)
    }

    /// Ports that are open on the host at external addresses of Services.
    pub fn external_ports(&self) -> Vec<(Protocol, SocketAddr)> {
        self.0.services.host_ports(HostPort::External)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
