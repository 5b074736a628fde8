//! IP addresses and their ranges.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, member, text};

const IP: P = P::Of(Opaque::Ip);
const CIDR: P = P::Of(Opaque::Cidr);

/// The functions of addresses.
pub(super) static TABLE: &[Overload] = &[
    global("ip", &[P::Str], IP, |args, _| {
        Ok(Val::Ip(parse(text(args, 0)?)?))
    }),
    global("isIP", &[P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(parse(text(args, 0)?).is_ok()))
    }),
    global("ip.isCanonical", &[P::Str], P::Bool, |args, _| {
        let text = text(args, 0)?;
        Ok(Val::Bool(parse(text)?.to_string() == text))
    }),
    member("family", &[IP], P::Int, |args, _| {
        Ok(Val::Int(if ip(args, 0)?.is_ipv4() { 4 } else { 6 }))
    }),
    member("isUnspecified", &[IP], P::Bool, |args, _| {
        Ok(Val::Bool(ip(args, 0)?.is_unspecified()))
    }),
    member("isLoopback", &[IP], P::Bool, |args, _| {
        Ok(Val::Bool(ip(args, 0)?.is_loopback()))
    }),
    member("isLinkLocalMulticast", &[IP], P::Bool, |args, _| {
        Ok(Val::Bool(link_local_multicast(ip(args, 0)?)))
    }),
    member("isLinkLocalUnicast", &[IP], P::Bool, |args, _| {
        Ok(Val::Bool(link_local_unicast(ip(args, 0)?)))
    }),
    member("isGlobalUnicast", &[IP], P::Bool, |args, _| {
        let ip = ip(args, 0)?;
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        let other =
            ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip);
        Ok(Val::Bool(!broadcast && !other))
    }),
    global("cidr", &[P::Str], CIDR, |args, _| {
        Ok(Val::Cidr(parse_range(text(args, 0)?)?))
    }),
    global("isCIDR", &[P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(parse_range(text(args, 0)?).is_ok()))
    }),
    member("containsIP", &[CIDR, IP], P::Bool, |args, _| {
        Ok(Val::Bool(range(args, 0)?.contains(&ip(args, 1)?)))
    }),
    member("containsIP", &[CIDR, P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(range(args, 0)?.contains(&parse(text(args, 1)?)?)))
    }),
    member("containsCIDR", &[CIDR, CIDR], P::Bool, |args, _| {
        Ok(Val::Bool(
            range(args, 0)?.trunc().contains(&range(args, 1)?),
        ))
    }),
    member("containsCIDR", &[CIDR, P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(
            range(args, 0)?
                .trunc()
                .contains(&parse_range(text(args, 1)?)?),
        ))
    }),
    member("ip", &[CIDR], IP, |args, _| {
        Ok(Val::Ip(range(args, 0)?.addr()))
    }),
    member("masked", &[CIDR], CIDR, |args, _| {
        Ok(Val::Cidr(range(args, 0)?.trunc()))
    }),
    member("prefixLength", &[CIDR], P::Int, |args, _| {
        Ok(Val::Int(range(args, 0)?.prefix_len().into()))
    }),
];

/// An address. One of IPv4 inside of IPv6 is refused, as is one with a zone.
fn parse(text: &str) -> Result<IpAddr, Fault> {
    let wrong = |what: &str| Fault::failed(format!("IP Address {text:?} {what}"));
    match text.parse() {
        Ok(IpAddr::V6(ip)) if is_mapped(ip) => Err(wrong(
            "parse error during conversion from string: IPv4-mapped IPv6 address is not allowed",
        )),
        Ok(ip) => Ok(ip),
        Err(_) => Err(wrong("parse error during conversion from string")),
    }
}

fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

fn parse_range(text: &str) -> Result<IpNet, Fault> {
    let wrong = || Fault::failed("network address parse error during conversion from string");
    let range: IpNet = text.parse().map_err(|_| wrong())?;
    match range.addr() {
        IpAddr::V6(ip) if is_mapped(ip) => Err(wrong()),
        _ => Ok(range),
    }
}

fn ip(args: &[Val<'_>], at: usize) -> Result<IpAddr, Fault> {
    match arg(args, at)? {
        Val::Ip(ip) => Ok(*ip),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn range(args: &[Val<'_>], at: usize) -> Result<IpNet, Fault> {
    match arg(args, at)? {
        Val::Cidr(range) => Ok(*range),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}
