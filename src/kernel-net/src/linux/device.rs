//! The device as smoltcp and the rest see it.

use std::{
    cell::RefCell,
    io,
    net::Ipv4Addr,
    num::{NonZeroU16, NonZeroUsize},
    sync::Arc,
};

use smoltcp::{
    phy::{
        Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken,
        TxToken,
    },
    time::Instant,
    wire::{IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber},
};
use tun_rs::AsyncDevice;

use super::{counters::Counters, vnet};

/// The longest packet.
pub(super) const MAX_PACKET: usize = 65_535;
/// The longest that the kernel is given at once, to be cut into segments.
const MAX_UNCUT: NonZeroUsize = NonZeroUsize::new(MAX_PACKET).unwrap();

thread_local! {
    /// Where packets are put together.
    static OUTGOING: RefCell<Vec<u8>> = RefCell::new(vec![0; vnet::LENGTH + MAX_PACKET]);
}

/// One queue of the device. The kernel brings the packets of a connection to the queue from which it last got one.
pub(super) struct Queue {
    device: AsyncDevice,
    counters: Arc<Counters>,
    mtu: usize,
}

impl Queue {
    pub(super) fn new(device: AsyncDevice, counters: Arc<Counters>, mtu: u16) -> Self {
        Self {
            device,
            counters,
            mtu: usize::from(mtu),
        }
    }

    /// Waits until packets can be sent.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.device.writable().await
    }

    /// Waits for a packet, with what is before it. The result is how long both are.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer).await
    }

    /// Gives the kernel a packet whose checksums are right.
    pub(super) fn send(&self, packet: &[u8]) {
        OUTGOING.with_borrow_mut(|space| {
            let Some(buffer) = space.get_mut(..vnet::LENGTH + packet.len()) else {
                return;
            };
            buffer[..vnet::LENGTH].copy_from_slice(&vnet::COMPLETE);
            buffer[vnet::LENGTH..].copy_from_slice(packet);
            self.write(buffer);
        });
    }

    fn write(&self, buffer: &[u8]) {
        // The device is never full in this direction; what the kernel does not want is lost, as on any network.
        if self.device.try_send(buffer).is_ok() {
            self.counters.packets_out.add(1);
            self.counters.bytes_out.add(buffer.len() - vnet::LENGTH);
        }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.segmentation.tcpv4 = Some(MAX_UNCUT);
        capabilities
    }
}

/// What the other side of a connection was told last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// The next byte that is expected.
    pub(super) expected: TcpSeqNumber,
    /// How much is taken, in units that both know.
    pub(super) window: u16,
}

/// A queue as the stack of one connection sees it: at most one packet comes in by it at a time.
pub(super) struct Port<'a> {
    queue: &'a Queue,
    packet: Option<&'a [u8]>,
    told: &'a mut Told,
}

impl<'a> Port<'a> {
    pub(super) fn new(queue: &'a Queue, packet: Option<&'a [u8]>, told: &'a mut Told) -> Self {
        Self {
            queue,
            packet,
            told,
        }
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        Some((Incoming(packet), Outgoing::new(self.queue, self.told)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing::new(self.queue, self.told))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.queue.capabilities()
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

pub(super) struct Outgoing<'a> {
    queue: &'a Queue,
    told: &'a mut Told,
    segment: Option<NonZeroU16>,
}

impl<'a> Outgoing<'a> {
    fn new(queue: &'a Queue, told: &'a mut Told) -> Self {
        Self {
            queue,
            told,
            segment: None,
        }
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, make: F) -> R {
        OUTGOING.with_borrow_mut(|space| {
            let needed = vnet::LENGTH + length;
            if space.len() < needed {
                space.resize(needed, 0);
            }
            let (header, packet) = space[..needed].split_at_mut(vnet::LENGTH);
            let result = make(packet);
            header.copy_from_slice(&finish(packet, self.segment, self.told));
            self.queue.write(&space[..needed]);
            result
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

/// Prepares a packet's checksum for the kernel, and says what is to be before it.
fn finish(packet: &mut [u8], segment: Option<NonZeroU16>, told: &mut Told) -> [u8; vnet::LENGTH] {
    let Ok(mut ip) = Ipv4Packet::new_checked(packet) else {
        return vnet::COMPLETE;
    };
    if ip.next_header() != IpProtocol::Tcp {
        return vnet::COMPLETE;
    }
    let (from, to, header) = (ip.src_addr(), ip.dst_addr(), ip.header_len());
    let payload = ip.payload_mut();
    let sum = pseudo_header(from, to, payload.len());
    let Ok(mut tcp) = TcpPacket::new_checked(payload) else {
        return vnet::COMPLETE;
    };
    tcp.set_checksum(sum);
    if tcp.ack() {
        *told = Told {
            expected: tcp.ack_number(),
            window: tcp.window_len(),
        };
    }
    vnet::unfinished_tcp(u16::from(header), u16::from(tcp.header_len()), segment)
}

/// The sum over what TCP adds to its checksum from IP, from which the kernel goes on.
fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> u16 {
    const TCP: u32 = 6;
    let words = |address: Ipv4Addr| {
        let bits = address.to_bits();
        (bits >> 16) + (bits & 0xffff)
    };
    let length = u32::try_from(length).unwrap_or(0);
    let sum = words(from) + words(to) + TCP + length;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    u16::try_from(folded).unwrap_or(0)
}
