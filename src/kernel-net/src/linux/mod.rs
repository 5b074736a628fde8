//! The device, where the kernel is Linux.

mod counters;
mod device;
mod filter;
mod flow;
mod hub;
mod packet;
mod routes;
mod rules;
mod uplink;
mod vnet;

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, Weak},
};

use ipnet::Ipv4Net;
use tokio::task::JoinSet;
use tun_rs::{AsyncDevice, DeviceBuilder};
use vaquita_net::Fabric;

pub use self::filter::KernelFilter;
use self::{counters::Counters, device::Queue, hub::Hub, uplink::WayOut};
use crate::{KernelNetConfig, Metrics, StartError};

const MIN_WINDOW: usize = 64 * 1024;
const MAX_WINDOW: usize = 16 * 1024 * 1024;
const MAX_CONNECTIONS: usize = 1 << 20;
const MAX_QUEUES: usize = 16;
/// What every machine of the internet passes on.
const MIN_MTU: usize = 576;
/// Packets that wait in a queue until they are read.
const WAITING: u32 = 1000;

/// The device and what serves it. When it is dropped, the device, its routes and all its connections are gone; so they
/// are when the process ends, however it does.
pub struct KernelNet {
    hub: Arc<Hub>,
    device: String,
    _readers: JoinSet<()>,
}

impl KernelNet {
    /// Makes the device, which answers for the pods and Services of a fabric from then on, and is its
    /// [uplink](Fabric::set_uplink): the way to pods that the kernel has. Its own address, from which processes of the
    /// host reach pods, is the node's ([`Fabric::node_ip`]).
    ///
    /// Must be called within a tokio runtime, which then serves it.
    pub fn start(fabric: &Fabric, config: KernelNetConfig) -> Result<Self, StartError> {
        check(&config)?;
        let pods = fabric.config().pod_cidr;
        let own = fabric.config().own_cidr.unwrap_or(pods);
        let ranges = || std::iter::once(&own).chain(&config.services);
        routes::check_free(ranges().copied())?;
        let failed = |source| StartError::Device {
            name: config.device.clone(),
            source,
        };
        let devices = make(fabric, own, &config).map_err(failed)?;
        let index = devices.first().map_or(Ok(0), |first| first.if_index());
        let index = index.map_err(failed)?;
        for &range in &config.services {
            routes::add(range, index).map_err(|source| StartError::Route { range, source })?;
        }
        let counters = Arc::new(Counters::default());
        let queues: Vec<_> = devices
            .into_iter()
            .map(|device| Arc::new(Queue::new(device, counters.clone(), config.mtu)))
            .collect();
        let device = config.device.clone();
        let hub = Arc::new(Hub::new(fabric.clone(), config, queues.clone(), counters));
        fabric.set_uplink(Some(Box::new(WayOut::new(&hub, pods, own))));
        let mut readers = JoinSet::new();
        for queue in queues {
            readers.spawn(hub.clone().serve(queue));
        }
        Ok(Self {
            hub,
            device,
            _readers: readers,
        })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Figures of this moment.
    pub fn metrics(&self) -> Metrics {
        self.hub.metrics()
    }

    /// Where to read the figures, for who does not own the device: once it is gone they are all 0.
    pub fn meter(&self) -> Meter {
        Meter(Arc::downgrade(&self.hub))
    }
}

/// Reads the figures of a [`KernelNet`].
#[derive(Clone)]
pub struct Meter(Weak<Hub>);

impl Meter {
    /// Figures of this moment.
    pub fn read(&self) -> Metrics {
        self.0
            .upgrade()
            .map(|hub| hub.metrics())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.read()).finish()
    }
}

impl Drop for KernelNet {
    fn drop(&mut self) {
        self.hub.fabric().set_uplink(None);
        self.hub.close();
    }
}

impl fmt::Debug for KernelNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelNet")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

fn check(config: &KernelNetConfig) -> Result<(), StartError> {
    for (name, value, min, max) in [
        (
            "mtu",
            usize::from(config.mtu),
            MIN_MTU,
            usize::from(u16::MAX),
        ),
        ("connections", config.connections, 1, MAX_CONNECTIONS),
        ("window", config.window, MIN_WINDOW, MAX_WINDOW),
        ("queues", config.queues, 1, MAX_QUEUES),
    ] {
        if !(min..=max).contains(&value) {
            return Err(StartError::OutOfRange {
                name,
                value,
                min,
                max,
            });
        }
    }
    Ok(())
}

/// Makes the device with all its queues. The kernel routes the pods' addresses to it because of its own.
fn make(fabric: &Fabric, own: Ipv4Net, config: &KernelNetConfig) -> io::Result<Vec<AsyncDevice>> {
    let IpAddr::V4(address) = fabric.node_ip() else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let first = DeviceBuilder::new()
        .name(&config.device)
        .mtu(config.mtu)
        .ipv4(address, own.prefix_len(), None)
        .with(|builder| {
            builder
                .offload(true)
                .multi_queue(true)
                .tx_queue_len(WAITING);
        })
        .build_async()?;
    let mut devices = vec![first];
    while devices.len() < config.queues
        && let Some(first) = devices.first()
    {
        let another = first.try_clone()?;
        devices.push(another);
    }
    Ok(devices)
}
