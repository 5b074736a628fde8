//! `wasi:sockets`, 0.2 and 0.3, over a pod's virtual network.
//!
//! [`add_to_linker`] and [`add_async_to_linker`] put these sockets into a linker; all they want to know of an instance is a [`View`].
//!
//! The interfaces' types are those of `wasmtime-wasi`; what is behind a handle is ours. A handle is an index into the
//! instance's resource table, where another type is put under the same index; see [`handle`].

use std::net::SocketAddr;
use std::sync::Arc;

use vaquita_net::{NetError, Payer, PodNetwork, ResolveError};
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, LinkOptions};
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp, udp_create_socket,
};

use crate::handle::{guest, host};

mod address;
mod asynchronous;
pub mod handle;
mod lookup;
mod options;
mod stream;
mod tcp_host;
mod tcp_socket;
mod udp_socket;
mod unconnected;

pub use asynchronous::add_to_linker as add_async_to_linker;

/// What an instance may do on its pod's network.
pub trait Grants: Send + Sync {
    /// Whether it may look that name up. If not, it is told `access-denied`.
    fn may_look_up(&self, name: &str) -> bool;

    /// Whether it may connect there by TCP, or send datagrams there by UDP. If not, it is told `access-denied`.
    fn may_connect(&self, is_tcp: bool, to: SocketAddr) -> bool;
}

/// What the interfaces' functions work on: parts of an instance's state.
pub struct View<'a> {
    /// Where its handles are.
    pub table: &'a mut ResourceTable,
    /// The network of its pod.
    pub network: &'a PodNetwork,
    /// Who pays for what it has sent and nobody has read yet.
    pub payer: &'a Arc<dyn Payer>,
    /// What it may do.
    pub grants: &'a dyn Grants,
}

struct Sockets;

impl HasData for Sockets {
    type Data<'a> = View<'a>;
}

/// Adds `wasi:sockets@0.2`, in the place of others if the linker allows for that.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    instance_network::add_to_linker::<T, Sockets>(linker, view)?;
    network::add_to_linker::<T, Sockets>(linker, &LinkOptions::default(), view)?;
    tcp_create_socket::add_to_linker::<T, Sockets>(linker, view)?;
    tcp::add_to_linker::<T, Sockets>(linker, view)?;
    udp_create_socket::add_to_linker::<T, Sockets>(linker, view)?;
    udp::add_to_linker::<T, Sockets>(linker, view)?;
    ip_name_lookup::add_to_linker::<T, Sockets>(linker, view)
}

fn code_of(error: NetError) -> ErrorCode {
    match error {
        NetError::AddrInUse(_) => ErrorCode::AddressInUse,
        NetError::AddrNotAvailable(_) => ErrorCode::AddressNotBindable,
        NetError::ConnectionRefused(_) => ErrorCode::ConnectionRefused,
        NetError::HostUnreachable(_) | NetError::NetworkUnreachable(_) | NetError::Closed => {
            ErrorCode::RemoteUnreachable
        }
        NetError::TimedOut(_) => ErrorCode::Timeout,
        NetError::Denied(_) => ErrorCode::AccessDenied,
        NetError::TooMany { .. } => ErrorCode::NewSocketLimit,
        NetError::MessageTooLong { .. } => ErrorCode::DatagramTooLarge,
        NetError::Host(error) => error.into(),
        _ => ErrorCode::Unknown,
    }
}

fn code_of_lookup(error: &ResolveError) -> ErrorCode {
    match error {
        ResolveError::Invalid(_) => ErrorCode::InvalidArgument,
        ResolveError::NotFound(_) => ErrorCode::NameUnresolvable,
        ResolveError::Outside { .. } => ErrorCode::TemporaryResolverFailure,
        _ => ErrorCode::PermanentResolverFailure,
    }
}
