//! The few bytes before each packet by which the kernel and the device leave work to each other (`virtio_net_hdr` of
//! `linux/virtio_net.h`, in the byte order of the machine).

use std::num::NonZeroU16;

/// Its length.
pub(super) const LENGTH: usize = 10;

/// The checksum is still to be made.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksum has been looked at.
const CHECKSUM_VALID: u8 = 2;
/// To be cut into segments of TCP over IPv4.
const GSO_TCP_V4: u8 = 1;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM: u16 = 16;

/// What comes before a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whether the checksum of what IP carries is not to be looked at: it is right, or is not there yet.
    pub(super) trusted: bool,
}

impl Header {
    /// Reads the one of a packet from the kernel.
    pub(super) fn read(bytes: [u8; LENGTH]) -> Self {
        Self {
            trusted: bytes[0] & (NEEDS_CHECKSUM | CHECKSUM_VALID) != 0,
        }
    }
}

/// What is before a packet that is complete.
pub(super) const COMPLETE: [u8; LENGTH] = [0; LENGTH];

/// What is before a TCP segment whose checksum is to be made: `ip` and `tcp` are the lengths of its headers; with
/// `segment`, it is to be cut into pieces that carry so many bytes where packets must be shorter.
pub(super) fn unfinished_tcp(ip: u16, tcp: u16, segment: Option<NonZeroU16>) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = NEEDS_CHECKSUM;
    // Only the headers need lie in one piece. A long packet that does costs its receiver twice its length of memory, which
    // is soon more than the window that it has promised, and then it drops what it has promised to take.
    bytes[2..4].copy_from_slice(&(ip + tcp).to_ne_bytes());
    if let Some(segment) = segment {
        bytes[1] = GSO_TCP_V4;
        bytes[4..6].copy_from_slice(&segment.get().to_ne_bytes());
    }
    bytes[6..8].copy_from_slice(&ip.to_ne_bytes());
    bytes[8..10].copy_from_slice(&TCP_CHECKSUM.to_ne_bytes());
    bytes
}
