//! Addresses, ports and protocols.

use std::net::IpAddr;

use crate::field::{Errors, FieldError, Path};
use crate::names;

/// What is wrong with a text that is no address.
pub const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A port from 1 to 65535.
pub fn port(port: i32, path: &Path<'_>, errors: &mut Errors) {
    errors.extend(
        names::port_number(port.into())
            .into_iter()
            .map(|problem| FieldError::invalid(path, port, problem)),
    );
}

/// TCP, UDP or SCTP.
pub fn protocol(protocol: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    match protocol.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        known if PROTOCOLS.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path, other, &PROTOCOLS)),
    }
}

/// An address that other machines can reach.
pub fn reachable(ip: IpAddr, path: &Path<'_>, errors: &mut Errors) {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    let mut refuse = |detail| errors.push(FieldError::invalid(path, ip.to_string(), detail));
    if ip.is_unspecified() {
        refuse("may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
