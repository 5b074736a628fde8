//! `wasi:sockets`, 0.2 and [0.3](asynchronous), over the pod's virtual network.
//!
//! The interfaces' types are those of `wasmtime-wasi`; what is behind a handle is ours. A handle is an index into the
//! instance's resource table, where another type is put under the same index; see [`handle`](crate::handle).

use std::sync::Arc;

use vaquita_net::{NetError, PodNetwork, ResolveError};
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, LinkOptions};
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp, udp_create_socket,
};

use crate::budget::Purse;
use crate::capabilities::Capabilities;
use crate::handle::{guest, host};
use crate::state::State;

mod address;
pub(crate) mod asynchronous;
mod lookup;
mod options;
mod stream;
mod tcp_host;
mod tcp_socket;
mod udp_socket;
mod unconnected;

/// What the interfaces' functions work on.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    network: &'a PodNetwork,
    /// Who pays for what is sent and not read yet.
    purse: &'a Arc<Purse>,
    capabilities: &'a Capabilities,
}

struct Sockets;

impl HasData for Sockets {
    type Data<'a> = View<'a>;
}

/// Puts the pod's sockets in the place of the host's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    instance_network::add_to_linker::<State, Sockets>(linker, view)?;
    network::add_to_linker::<State, Sockets>(linker, &LinkOptions::default(), view)?;
    tcp_create_socket::add_to_linker::<State, Sockets>(linker, view)?;
    tcp::add_to_linker::<State, Sockets>(linker, view)?;
    udp_create_socket::add_to_linker::<State, Sockets>(linker, view)?;
    udp::add_to_linker::<State, Sockets>(linker, view)?;
    ip_name_lookup::add_to_linker::<State, Sockets>(linker, view)
}

fn view(state: &mut State) -> View<'_> {
    View {
        table: &mut state.table,
        network: &state.network,
        purse: &state.purse,
        capabilities: &state.capabilities,
    }
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
