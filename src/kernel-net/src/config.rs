//! What the device is made with, what it counts, and why there may be none.

use std::{io, time::Duration};

use ipnet::Ipv4Net;
use thiserror::Error;

/// Options of a [`KernelNet`](crate::KernelNet).
#[derive(Clone, Debug)]
pub struct KernelNetConfig {
    /// The name of the device, at most 15 bytes. Default `vaquita0`.
    pub device: String,
    /// The addresses of Services, which are behind the device as the fabric's pods are. Default: none.
    pub services: Vec<Ipv4Net>,
    /// Where pods are that the kernel has, besides the part of the fabric's
    /// [pod network](vaquita_net::FabricConfig::pod_cidr) that is not the fabric's own. Default: nowhere.
    pub beside: Vec<Ipv4Net>,
    /// The longest packet that the device passes. Default 65,535, so that hardly anything is cut into pieces.
    pub mtu: u16,
    /// Connections at a time; the beginnings of further ones are dropped, and the client tries again. Default 16,384.
    pub connections: usize,
    /// Bytes that one connection holds in each direction, on their way between the kernel and the pod: its window.
    /// Default 512 KiB, at least 64 KiB, at most 16 MiB. Memory is taken when it is used.
    pub window: usize,
    /// How many threads serve the device at a time, at most 16. Default: as many as there are processors, at most 4.
    pub queues: usize,
    /// How long a peer may be silent, though it is asked whether it is there, before its connection is given up. Default
    /// five minutes.
    pub dead_after: Duration,
}

impl Default for KernelNetConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            device: "vaquita0".to_owned(),
            services: Vec::new(),
            beside: Vec::new(),
            mtu: u16::MAX,
            connections: 16_384,
            window: 512 * 1024,
            queues: processors.min(4),
            dead_after: Duration::from_mins(5),
        }
    }
}

/// Why there is no device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// This is not Linux.
    #[error("a way to the kernel's network is there on Linux only")]
    NotLinux,
    /// An option is outside of what makes sense.
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
    /// The host routes some of these addresses elsewhere already.
    #[error("the host has a route to {route} by {device}, which overlaps {range}")]
    Collision {
        /// The addresses that were to be behind the device.
        range: Ipv4Net,
        /// What the host has.
        route: Ipv4Net,
        /// By which device.
        device: String,
    },
    /// The host's routes could not be read.
    #[error("reading the routes of the host")]
    Routes(#[source] io::Error),
    /// The device could not be made: no permission, no TUN driver, or one of that name is there.
    #[error("making the network device {name}")]
    Device {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a route.
    #[error("routing {range} to the network device")]
    Route {
        /// Which.
        range: Ipv4Net,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Options of a [`KernelFilter`](crate::KernelFilter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFilterConfig {
    /// The name of the table of `nftables` (of the family `inet`) that is made, replaced and removed. Default `vaquita`.
    pub table: String,
    /// The bridge that containers are on. Default `vaquita`.
    pub bridge: String,
    /// The addresses of containers. Default `10.244.128.0/17`.
    pub containers: Ipv4Net,
    /// The device behind which the fabric's pods are. Default `vaquita0`.
    pub device: String,
}

impl Default for KernelFilterConfig {
    fn default() -> Self {
        Self {
            table: "vaquita".to_owned(),
            bridge: "vaquita".to_owned(),
            containers: Ipv4Net::new_assert([10, 244, 128, 0].into(), 17),
            device: KernelNetConfig::default().device,
        }
    }
}

/// Why the packet filter is not as it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// This is not Linux.
    #[error("there is a packet filter on Linux only")]
    NotLinux,
    /// `nft` could not be run, or did not end.
    #[error("running nft (of nftables)")]
    Run(#[source] io::Error),
    /// It said no.
    #[error("nft says: {0}")]
    Refused(String),
}

/// Figures of the device, at one moment. Counters count since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Connections now.
    pub connections: usize,
    /// Counter: connections that came in and that somebody in the fabric took.
    pub accepted: u64,
    /// Counter: connections that came in and were refused, by a reset or an ICMP message.
    pub refused: u64,
    /// Counter: connections that came in while there were as many as there may be.
    pub overflowed: u64,
    /// Counter: packets from the kernel.
    pub packets_in: u64,
    /// Counter: bytes of these.
    pub bytes_in: u64,
    /// Counter: packets to the kernel.
    pub packets_out: u64,
    /// Counter: bytes of these.
    pub bytes_out: u64,
    /// Counter: packets from the kernel that nobody is there for, or that make no sense.
    pub dropped: u64,
}
