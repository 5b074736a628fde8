//! Data between a connection and the buffers that a guest describes.

use std::io;

use wasmtime_wasi::p1::types::Errno;

use super::descriptors::{Connection, Descriptors, Socket, errno_of_io};
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
        memory.check(at, length)?;
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
    descriptors: &Descriptors,
    fd: i32,
    memory: &mut Memory<'_>,
    (list, count): (Pointer, i32),
    how: Receive,
) -> Result<u32, Errno> {
    let buffers = buffers(memory, list, count)?;
    loop {
        if let Some(received) = try_receive(descriptors, fd, memory, &buffers, how)? {
            return Ok(received);
        }
        descriptors.ready(fd, Socket::poll_readable).await;
    }
}

/// What could be received at once; `None` if that is nothing, and the guest waits.
fn try_receive(
    descriptors: &Descriptors,
    fd: i32,
    memory: &mut Memory<'_>,
    buffers: &[Buffer],
    how: Receive,
) -> Result<Option<u32>, Errno> {
    let most: u32 = buffers.iter().map(|(_, length)| length).sum();
    // What is taken is written before anybody else can take more.
    let mut table = descriptors.lock();
    let socket = table.get(fd).ok_or(Errno::Notsock)?;
    if most == 0 {
        return Ok(Some(0));
    }
    match arrived(socket, most as usize)? {
        Some(connection) => fill(connection, memory, buffers, how).map(Some),
        None => Ok(None),
    }
}

/// A connection that has something to be read, or is at its end; `None` if the guest waits for that.
fn arrived(socket: &mut Socket, most: usize) -> Result<Option<&mut Connection>, Errno> {
    let blocking = socket.is_blocking();
    let connection = socket.connection()?;
    if connection.peeked.is_empty() {
        connection.peeked = match connection.stream.try_read(most) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && blocking => return Ok(None),
            Err(error) => return Err(errno_of_io(&error)),
        };
    }
    Ok(Some(connection))
}

fn fill(
    connection: &mut Connection,
    memory: &mut Memory<'_>,
    buffers: &[Buffer],
    how: Receive,
) -> Result<u32, Errno> {
    let mut data = connection.peeked.clone();
    let mut received = 0;
    for (at, length) in buffers {
        let length = (*length).min(u32::try_from(data.len()).unwrap_or(u32::MAX));
        let piece = data.split_to(length as usize);
        memory.write(*at, &piece)?;
        received += length;
    }
    if how == Receive::Take {
        connection.peeked = data;
    }
    Ok(received)
}

/// Sends a part of what is in the guest's buffers, and says how much.
pub(super) async fn send(
    descriptors: &Descriptors,
    fd: i32,
    memory: &Memory<'_>,
    (list, count): (Pointer, i32),
) -> Result<u32, Errno> {
    let buffers = buffers(memory, list, count)?;
    loop {
        if let Some(sent) = try_send(descriptors, fd, memory, &buffers)? {
            return Ok(sent);
        }
        descriptors.ready(fd, Socket::poll_writable).await;
    }
}

/// What could be sent at once; `None` if that is nothing, and the guest waits.
fn try_send(
    descriptors: &Descriptors,
    fd: i32,
    memory: &Memory<'_>,
    buffers: &[Buffer],
) -> Result<Option<u32>, Errno> {
    let mut table = descriptors.lock();
    let socket = table.get(fd).ok_or(Errno::Notsock)?;
    let blocking = socket.is_blocking();
    let stream = &socket.connection()?.stream;
    let mut sent = 0;
    for (at, length) in buffers {
        let data = memory.slice(*at, *length)?;
        let written = match stream.try_write_from(&data) {
            Ok(written) => u32::try_from(written).unwrap_or(*length),
            // What was sent before has been sent; the next call will find out.
            Err(_) if sent > 0 => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && blocking => return Ok(None),
            Err(error) => return Err(errno_of_io(&error)),
        };
        sent += written;
        if written < *length {
            break;
        }
    }
    Ok(Some(sent))
}
