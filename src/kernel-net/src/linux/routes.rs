//! Routes of the kernel: which there are, and new ones. Those by a device go with it.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use socket2::{Domain, Protocol, Socket, Type};

use crate::StartError;

/// Where the kernel lists its routes of IPv4, those of the caller's network namespace.
const TABLE: &str = "/proc/thread-self/net/route";

/// Whether the host routes none of these addresses elsewhere than by default.
pub(super) fn check_free(ranges: impl Iterator<Item = Ipv4Net>) -> Result<(), StartError> {
    let table = fs::read_to_string(TABLE).map_err(StartError::Routes)?;
    let routes: Vec<_> = table.lines().skip(1).filter_map(parse).collect();
    for range in ranges {
        let overlapping = routes.iter().find(|(_, route)| {
            route.prefix_len() > 0 && (route.contains(&range) || range.contains(route))
        });
        if let Some((device, route)) = overlapping {
            return Err(StartError::Collision {
                range,
                route: *route,
                device: (*device).to_owned(),
            });
        }
    }
    Ok(())
}

/// The device and the destination of a line. Numbers are hexadecimal, in the machine's byte order.
fn parse(line: &str) -> Option<(&str, Ipv4Net)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let number = |index: usize| {
        let field = fields.get(index)?;
        let raw = u32::from_str_radix(field, 16).ok()?;
        Some(Ipv4Addr::from(raw.to_ne_bytes()))
    };
    let net = Ipv4Net::with_netmask(number(1)?, number(7)?).ok()?;
    Some((fields.first()?, net))
}

// Of linux/netlink.h and linux/rtnetlink.h.
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
const AF_INET: u8 = 2;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;

/// Routes a range to the device with this index.
pub(super) fn add(range: Ipv4Net, device: u32) -> io::Result<()> {
    let mut socket = Socket::new(
        Domain::from(AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_ROUTE)),
    )?;
    socket.write_all(&request(range, device))?;
    let mut answer = [0; 512];
    let length = socket.read(&mut answer)?;
    read_answer(answer.get(..length).unwrap_or(&[]))
}

fn request(range: Ipv4Net, device: u32) -> Vec<u8> {
    let mut body = vec![
        AF_INET,
        range.prefix_len(),
        0, // of any source
        0, // for any type of service
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        RT_SCOPE_LINK,
        RTN_UNICAST,
    ];
    body.extend_from_slice(&0_u32.to_ne_bytes());
    attribute(&mut body, RTA_DST, range.network().octets());
    attribute(&mut body, RTA_OIF, device.to_ne_bytes());
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&RTM_NEWROUTE.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes()); // its number
    message.extend_from_slice(&0_u32.to_ne_bytes()); // from whoever has the socket
    message.extend_from_slice(&body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8_u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}

/// An answer to one request is an "error", which is 0 if there is none.
fn read_answer(answer: &[u8]) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
    let code = answer.get(16..20).and_then(|code| code.try_into().ok());
    let (kind, code) = kind.zip(code).ok_or_else(broken)?;
    match (u16::from_ne_bytes(kind), i32::from_ne_bytes(code)) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, code) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let (to, mask) = (word([10, 244, 0, 0]), word([255, 255, 128, 0]));
        let line = format!("br0\t{to}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0");
        assert_eq!(
            parse(&line),
            Some(("br0", "10.244.0.0/17".parse().unwrap()))
        );
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn answers_are_understood() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            read_answer(&bytes)
        };
        assert!(answer(NLMSG_ERROR, 0).is_ok());
        let refused = answer(NLMSG_ERROR, -1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(answer(3, 0).is_err());
        assert!(read_answer(&[]).is_err());
    }
}
