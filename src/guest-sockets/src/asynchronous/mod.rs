//! `wasi:sockets@0.3` over the pod's virtual network.
//!
//! Sockets have the same life and rules as those of 0.2, in [`tcp_socket`](super::tcp_socket); only who waits is
//! different: these functions themselves, and the streams that they give.

use vaquita_net::ResolveError;
use wasmtime::component::{Accessor, Linker};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as OldCode, IpAddressFamily as OldFamily,
};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::{self, ErrorCode as LookupCode};
use wasmtime_wasi::p3::bindings::sockets::types::{
    self, ErrorCode, Host, IpAddress, IpAddressFamily,
};
use wasmtime_wasi::p3::sockets::SocketError;

use super::{Sockets, View};

mod tcp;
mod udp;

/// Adds `wasi:sockets@0.3`, in the place of others if the linker allows for that.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Sockets>(linker, view)?;
    ip_name_lookup::add_to_linker::<T, Sockets>(linker, view)
}

impl Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl ip_name_lookup::Host for View<'_> {}

impl<T> ip_name_lookup::HostWithStore<T> for Sockets {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, LookupCode>> {
        let network = store.with(|mut store| {
            let view = store.get();
            let may = view.grants.may_look_up(&name);
            may.then(|| view.network.clone())
        });
        let Some(network) = network else {
            return Ok(Err(LookupCode::AccessDenied));
        };
        let answer = network.resolve(&name).await;
        Ok(match answer {
            Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
            Err(ResolveError::Invalid(_)) => Err(LookupCode::InvalidArgument),
            Err(ResolveError::NotFound(_)) => Err(LookupCode::NameUnresolvable),
            Err(ResolveError::Outside { .. }) => Err(LookupCode::TemporaryResolverFailure),
            Err(_) => Err(LookupCode::PermanentResolverFailure),
        })
    }
}

/// What 0.2 calls it, in 0.3.
fn code(old: OldCode) -> ErrorCode {
    match old {
        OldCode::AccessDenied => ErrorCode::AccessDenied,
        OldCode::NotSupported => ErrorCode::NotSupported,
        OldCode::InvalidArgument => ErrorCode::InvalidArgument,
        OldCode::OutOfMemory | OldCode::NewSocketLimit => ErrorCode::OutOfMemory,
        OldCode::Timeout => ErrorCode::Timeout,
        OldCode::InvalidState | OldCode::ConcurrencyConflict | OldCode::NotInProgress => {
            ErrorCode::InvalidState
        }
        OldCode::AddressNotBindable => ErrorCode::AddressNotBindable,
        OldCode::AddressInUse => ErrorCode::AddressInUse,
        OldCode::RemoteUnreachable => ErrorCode::RemoteUnreachable,
        OldCode::ConnectionRefused => ErrorCode::ConnectionRefused,
        OldCode::ConnectionReset => ErrorCode::ConnectionReset,
        OldCode::ConnectionAborted => ErrorCode::ConnectionAborted,
        OldCode::DatagramTooLarge => ErrorCode::DatagramTooLarge,
        _ => ErrorCode::Other(None),
    }
}

fn error(old: OldCode) -> SocketError {
    code(old).into()
}

fn old_family(family: IpAddressFamily) -> OldFamily {
    match family {
        IpAddressFamily::Ipv4 => OldFamily::Ipv4,
        IpAddressFamily::Ipv6 => OldFamily::Ipv6,
    }
}

fn family(old: OldFamily) -> IpAddressFamily {
    match old {
        OldFamily::Ipv4 => IpAddressFamily::Ipv4,
        OldFamily::Ipv6 => IpAddressFamily::Ipv6,
    }
}
