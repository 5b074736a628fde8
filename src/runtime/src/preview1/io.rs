//! Data between a connection and the buffers that a guest describes.

use std::io;

use wasmtime_wasi::p1::types::Errno;

use super::descriptors::{Socket, errno_of_io};
use super::memory::{Memory, Pointer};

/// The most that goes through at once.
const LARGEST_PIECE: u32 = 64 << 10;

/// The size of a buffer's description: an address and a length.
const BUFFER: u32 = 8;

/// The most buffers of one call, as POSIX's `IOV_MAX`.
const MOST_BUFFERS: u32 = 1024;

/// What is to become of received data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    Take,
    /// It is there for the next call again.
    Peek,
}

impl Receive {
    /// By `riflags`. Waiting for all is not done: programs must be able to go on with less anyway.
    pub(super) fn of_flags(flags: i32) -> Self {
        if flags & 1 == 1 {
            Self::Peek
        } else {
            Self::Take
        }
    }
}

/// One buffer: where and how long.
pub(super) type Buffer = (Pointer, u32);

/// The buffers that a guest lists, cut so that together they are not longer than the largest piece.
pub(super) fn buffers(
    memory: &Memory<'_>,
    list: Pointer,
    count: i32,
) -> Result<Vec<Buffer>, Errno> {
    let count = count.cast_unsigned();
    if count > MOST_BUFFERS {
        return Err(Errno::Inval);
    }
    let mut room = LARGEST_PIECE;
    let mut buffers = Vec::new();
    for index in 0..count {
        let buffer = list.element(index, BUFFER)?;
        let at = Pointer::from(memory.read_u32(buffer)?);
        let length = memory.read_u32(buffer.element(1, 4)?)?;
        // Not even a part that is not used now may lie outside.
        memory.slice(at, length)?;
        let length = length.min(room);
        room -= length;
        if length > 0 {
            buffers.push((at, length));
        }
    }
    Ok(buffers)
}

/// Fills the guest's buffers with what has arrived, and says how much that was: 0 at the end.
pub(super) async fn receive(
    socket: &mut Socket,
    memory: &mut Memory<'_>,
    list: Pointer,
    count: i32,
    how: Receive,
) -> Result<u32, Errno> {
    let buffers = buffers(memory, list, count)?;
    let most: u32 = buffers.iter().map(|(_, length)| length).sum();
    if most == 0 {
        return Ok(0);
    }
    let blocking = socket.is_blocking();
    let connection = socket.connection()?;
    if connection.peeked.is_empty() {
        connection.peeked = loop {
            match connection.stream.try_read(most as usize) {
                Ok(data) => break data,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && blocking => {
                    connection.stream.read_ready().await;
                }
                Err(error) => return Err(errno_of_io(&error)),
            }
        };
    }
    let mut data = connection.peeked.clone();
    let mut received = 0;
    for (at, length) in buffers {
        let length = length.min(u32::try_from(data.len()).unwrap_or(u32::MAX));
        let piece = data.split_to(length as usize);
        memory.write(at, &piece)?;
        received += length;
    }
    if how == Receive::Take {
        connection.peeked = data;
    }
    Ok(received)
}

/// Sends a part of what is in the guest's buffers, and says how much.
pub(super) async fn send(
    socket: &mut Socket,
    memory: &Memory<'_>,
    list: Pointer,
    count: i32,
) -> Result<u32, Errno> {
    let buffers = buffers(memory, list, count)?;
    let blocking = socket.is_blocking();
    let stream = &socket.connection()?.stream;
    let mut sent = 0;
    for (at, length) in buffers {
        let data = memory.slice(at, length)?;
        let written = loop {
            match stream.try_write_from(data) {
                Ok(written) => break written,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && blocking && sent == 0 =>
                {
                    stream.write_ready().await;
                }
                // What was sent before has been sent; the next call will find out.
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(errno_of_io(&error)),
            }
        };
        let written = u32::try_from(written).unwrap_or(length);
        sent += written;
        if written < length {
            break;
        }
    }
    Ok(sent)
}
