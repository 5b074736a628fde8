//! What a packet from the kernel is, and the packets that refuse one.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet,
        Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
    },
};

/// What answers have as their time to live.
const HOPS: u8 = 64;
/// How much of a packet an ICMP error repeats, at most.
const REPEATED: usize = 548;

/// The two ends of a connection, of which one is in the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    /// On the kernel's side.
    pub(super) kernel: SocketAddrV4,
    /// In the fabric: a pod's or a Service's address.
    pub(super) fabric: SocketAddrV4,
}

/// What a packet is to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A segment of a connection.
    Tcp {
        pair: Pair,
        kind: Segment,
        /// The whole packet.
        bytes: &'a [u8],
    },
    /// A datagram.
    Udp {
        pair: Pair,
        data: &'a [u8],
        /// The whole packet.
        bytes: &'a [u8],
    },
    /// Somebody asks whether this address is alive. The whole packet.
    Echo { to: Ipv4Addr, bytes: &'a [u8] },
    /// The kernel knows no way to the other side of this connection, which a pod begins.
    Unreachable(Pair),
    /// Something else, or broken.
    Other,
}

/// What a TCP segment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// A new connection.
    Opening,
    /// The end of one, at once.
    Reset,
    /// Whatever one that exists is to do with it.
    Other,
}

/// Reads a packet. `trusted`: the checksum of what IP carries need not be looked at.
pub(super) fn read(bytes: &[u8], trusted: bool) -> Packet<'_> {
    let Ok(ip) = Ipv4Packet::new_checked(bytes) else {
        return Packet::Other;
    };
    // Fragments are put together by the kernel's connection tracking where containers may send any.
    if ip.version() != 4 || ip.more_frags() || ip.frag_offset() != 0 {
        return Packet::Other;
    }
    let bytes = &bytes[..usize::from(ip.total_len())];
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let pair = |from_port, to_port| Pair {
        kernel: SocketAddrV4::new(from, from_port),
        fabric: SocketAddrV4::new(to, to_port),
    };
    match ip.next_header() {
        IpProtocol::Tcp => {
            let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else {
                return Packet::Other;
            };
            let is_right = trusted || tcp.verify_checksum(&from.into(), &to.into());
            if !is_right || tcp.src_port() == 0 || tcp.dst_port() == 0 {
                return Packet::Other;
            }
            let kind = if tcp.rst() {
                Segment::Reset
            } else if tcp.syn() && !tcp.ack() {
                Segment::Opening
            } else {
                Segment::Other
            };
            Packet::Tcp {
                pair: pair(tcp.src_port(), tcp.dst_port()),
                kind,
                bytes,
            }
        }
        IpProtocol::Udp => {
            let Ok(udp) = UdpPacket::new_checked(ip.payload()) else {
                return Packet::Other;
            };
            let is_right = trusted || udp.verify_checksum(&from.into(), &to.into());
            if !is_right || udp.dst_port() == 0 {
                return Packet::Other;
            }
            Packet::Udp {
                pair: pair(udp.src_port(), udp.dst_port()),
                data: ip.payload().get(8..usize::from(udp.len())).unwrap_or(&[]),
                bytes,
            }
        }
        IpProtocol::Icmp => read_message(to, bytes, ip.payload()).unwrap_or(Packet::Other),
        _ => Packet::Other,
    }
}

fn read_message<'a>(to: Ipv4Addr, bytes: &'a [u8], payload: &'a [u8]) -> Option<Packet<'a>> {
    let icmp = Icmpv4Packet::new_checked(payload).ok()?;
    if !icmp.verify_checksum() {
        return None;
    }
    match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::ignored()).ok()? {
        Icmpv4Repr::EchoRequest { .. } => Some(Packet::Echo { to, bytes }),
        Icmpv4Repr::DstUnreachable { header, data, .. }
            if header.next_header == IpProtocol::Tcp =>
        {
            // It repeats what it is about: what we sent, of which the ports come first.
            let port = |at: usize| {
                let bytes = data.get(at..at + 2)?.try_into().ok()?;
                Some(u16::from_be_bytes(bytes))
            };
            Some(Packet::Unreachable(Pair {
                kernel: SocketAddrV4::new(header.dst_addr, port(2)?),
                fabric: SocketAddrV4::new(header.src_addr, port(0)?),
            }))
        }
        _ => None,
    }
}

/// The answer to somebody who asked whether an address is alive.
pub(super) fn echo(bytes: &[u8]) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let icmp = Icmpv4Packet::new_checked(ip.payload()).ok()?;
    match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::ignored()).ok()? {
        Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data,
        } => {
            let answer = Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            Some(icmp_packet(ip.dst_addr(), ip.src_addr(), &answer))
        }
        _ => None,
    }
}

/// Says that a packet can't go where it was to.
pub(super) fn unreachable(bytes: &[u8], reason: Icmpv4DstUnreachable) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let header = Ipv4Repr::parse(&ip, &ChecksumCapabilities::ignored()).ok()?;
    let data = ip.payload();
    let message = Icmpv4Repr::DstUnreachable {
        reason,
        header,
        data: &data[..data.len().min(REPEATED)],
    };
    Some(icmp_packet(ip.dst_addr(), ip.src_addr(), &message))
}

fn icmp_packet(from: Ipv4Addr, to: Ipv4Addr, message: &Icmpv4Repr<'_>) -> Vec<u8> {
    ip_packet(
        (from, to),
        IpProtocol::Icmp,
        message.buffer_len(),
        |payload| {
            message.emit(
                &mut Icmpv4Packet::new_unchecked(payload),
                &ChecksumCapabilities::default(),
            );
        },
    )
}

/// The reset that answers a segment for which there is no connection.
pub(super) fn reset(bytes: &[u8]) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    // A reset says what it answers: RFC 9293, 3.10.7.1.
    let (seq_number, ack_number) = if tcp.ack() {
        (tcp.ack_number(), None)
    } else {
        let end = tcp.seq_number() + tcp.segment_len();
        (TcpSeqNumber(0), Some(end))
    };
    let answer = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (ip.dst_addr(), ip.src_addr());
    let packet = ip_packet(
        (from, to),
        IpProtocol::Tcp,
        answer.buffer_len(),
        |payload| {
            answer.emit(
                &mut TcpPacket::new_unchecked(payload),
                &IpAddress::Ipv4(from),
                &IpAddress::Ipv4(to),
                &ChecksumCapabilities::default(),
            );
        },
    );
    Some(packet)
}

/// Whether a segment carries nothing but what it acknowledges and perhaps data, and then what it acknowledges alone, as if
/// it were the next that is expected.
///
/// A receiver whose window is closed has to heed acknowledgements all the same (RFC 9293, 3.10.7.4); smoltcp does not where
/// the sender is ahead of the window, which it is by the few bytes that get lost when a window is scaled down. Two sides
/// that each wait for the other's window would wait forever.
pub(super) fn acknowledgement(bytes: &[u8], expected: TcpSeqNumber) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    if !tcp.ack() || tcp.rst() || tcp.syn() || tcp.fin() {
        return None;
    }
    let length = usize::from(ip.header_len()) + usize::from(tcp.header_len());
    let mut alone = bytes.get(..length)?.to_vec();
    let mut ip = Ipv4Packet::new_unchecked(&mut alone[..]);
    ip.set_total_len(u16::try_from(length).ok()?);
    let mut tcp = TcpPacket::new_checked(ip.payload_mut()).ok()?;
    tcp.set_seq_number(expected);
    Some(alone)
}

/// A datagram.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    const HEADER: usize = 8;
    let length = HEADER + data.len();
    ip_packet((*from.ip(), *to.ip()), IpProtocol::Udp, length, |payload| {
        let mut udp = UdpPacket::new_unchecked(payload);
        udp.set_src_port(from.port());
        udp.set_dst_port(to.port());
        udp.set_len(u16::try_from(length).unwrap_or(0));
        udp.payload_mut().copy_from_slice(data);
        udp.fill_checksum(&IpAddress::Ipv4(*from.ip()), &IpAddress::Ipv4(*to.ip()));
    })
}

fn ip_packet(
    (from, to): (Ipv4Addr, Ipv4Addr),
    next_header: IpProtocol,
    length: usize,
    make: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header,
        payload_len: length,
        hop_limit: HOPS,
    };
    let mut packet = vec![0; header.buffer_len() + length];
    let (front, payload) = packet.split_at_mut(header.buffer_len());
    make(payload);
    // The length is read from the header, so that the header needs no more than itself.
    let mut ip = Ipv4Packet::new_unchecked(front);
    header.emit(&mut ip, &ChecksumCapabilities::ignored());
    // What is longer than the way is cut into pieces.
    ip.set_dont_frag(false);
    ip.fill_checksum();
    packet
}
