//! The way between the virtual network of pods and the kernel's: a device that answers for the pods' addresses.
//!
//! The [fabric](vaquita_net) passes connections, not packets. Processes of the host and containers of other engines know
//! only packets. [`KernelNet::start`] makes a TUN device to which the kernel routes the addresses of pods and Services;
//! what comes in by it is turned into connections of the fabric, with the address of who connects, and what the fabric
//! sends is turned into packets again. There is one TCP/IP stack (smoltcp) for each connection, found by its four
//! addresses and ports: no connection costs another one anything, and threads serve different ones side by side.
//!
//! The kernel and the device exchange segments of up to 64 KiB, whatever the size of packets elsewhere on their way
//! (segmentation offload), and leave checksums to each other.
//!
//! Containers of another engine reach each other without us, over a bridge. What the fabric does for its own pods on the
//! way, [`KernelFilter`] has the kernel do for them: Services lead to endpoints, and policies hold.
//!
//! Linux only, and only where the process may make network devices: elsewhere `start` says so. Without it pods reach
//! each other all the same.

mod config;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

pub use config::{FilterError, KernelFilterConfig, KernelNetConfig, Metrics, StartError};
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{KernelFilter, KernelNet, Meter};
#[cfg(target_os = "linux")]
pub use linux::{KernelFilter, KernelNet, Meter};
