//! Which addresses `wasi:sockets@0.2` lets a socket have and reach.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

/// Of the socket's own family, and nobody's group.
pub(super) fn check_local(family: IpAddressFamily, address: SocketAddr) -> Result<(), ErrorCode> {
    if is_of_family(family, address.ip()) && is_unicast(address.ip()) {
        Ok(())
    } else {
        Err(ErrorCode::InvalidArgument)
    }
}

/// And somewhere.
pub(super) fn check_remote(family: IpAddressFamily, address: SocketAddr) -> Result<(), ErrorCode> {
    if address.ip().to_canonical().is_unspecified() || address.port() == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    check_local(family, address)
}

/// Addresses of the other family that are written in this one's form don't count.
fn is_of_family(family: IpAddressFamily, ip: IpAddr) -> bool {
    match (family, ip) {
        (IpAddressFamily::Ipv4, IpAddr::V4(_)) => true,
        (IpAddressFamily::Ipv6, IpAddr::V6(ip)) => {
            ip.to_ipv4_mapped().is_none() && !is_compatible(ip)
        }
        _ => false,
    }
}

/// The retired way to write an IPv4 address as an IPv6 one.
fn is_compatible(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [0, 0, 0, 0, 0, 0, _, _]) && !ip.is_unspecified() && !ip.is_loopback()
}

fn is_unicast(ip: IpAddr) -> bool {
    !ip.is_multicast() && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
