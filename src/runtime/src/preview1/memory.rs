//! A guest's memory, where every address is suspect.

use std::borrow::Cow;
use std::ops::Range;

use wasmtime::SharedMemory;
use wasmtime_wasi::p1::types::Errno;
use wiggle::GuestMemory;

use crate::cells;

/// An address in the guest's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer(u32);

impl From<u32> for Pointer {
    fn from(address: u32) -> Self {
        Self(address)
    }
}

impl From<i32> for Pointer {
    fn from(address: i32) -> Self {
        Self(address.cast_unsigned())
    }
}

impl Pointer {
    /// `self + index * size`.
    pub(super) fn element(self, index: u32, size: u32) -> Result<Self, Errno> {
        let offset = index.checked_mul(size).ok_or(Errno::Fault)?;
        self.0.checked_add(offset).map(Self).ok_or(Errno::Fault)
    }
}

/// The whole memory.
pub(super) enum Memory<'a> {
    /// The instance's own.
    Own(&'a mut [u8]),
    /// Other threads change it meanwhile, so that all is copied.
    Shared(SharedMemory),
}

impl Memory<'_> {
    /// As `wasmtime-wasi`'s functions take it.
    pub(super) fn original(&mut self) -> GuestMemory<'_> {
        match self {
            Self::Own(bytes) => GuestMemory::Unshared(bytes),
            Self::Shared(memory) => GuestMemory::Shared(memory.data()),
        }
    }

    /// The indices of these bytes, if all are inside.
    fn range(&self, at: Pointer, length: u32) -> Result<Range<usize>, Errno> {
        let size = match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(memory) => memory.data().len(),
        };
        let from = at.0 as usize;
        let to = from.checked_add(length as usize).ok_or(Errno::Fault)?;
        if to > size {
            return Err(Errno::Fault);
        }
        Ok(from..to)
    }

    /// Whether all these bytes are inside.
    pub(super) fn check(&self, at: Pointer, length: u32) -> Result<(), Errno> {
        self.range(at, length).map(drop)
    }

    pub(super) fn slice(&self, at: Pointer, length: u32) -> Result<Cow<'_, [u8]>, Errno> {
        let range = self.range(at, length)?;
        Ok(match self {
            Self::Own(bytes) => Cow::Borrowed(&bytes[range]),
            Self::Shared(memory) => Cow::Owned(cells::read(&memory.data()[range])),
        })
    }

    pub(super) fn read<const N: usize>(&self, at: Pointer) -> Result<[u8; N], Errno> {
        let length = u32::try_from(N).map_err(|_| Errno::Fault)?;
        let range = self.range(at, length)?;
        let mut read = [0; N];
        match self {
            Self::Own(bytes) => read.copy_from_slice(&bytes[range]),
            Self::Shared(memory) => read.copy_from_slice(&cells::read(&memory.data()[range])),
        }
        Ok(read)
    }

    pub(super) fn read_u32(&self, at: Pointer) -> Result<u32, Errno> {
        self.read(at).map(u32::from_le_bytes)
    }

    pub(super) fn write(&mut self, at: Pointer, bytes: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        let range = self.range(at, length)?;
        match self {
            Self::Own(memory) => memory[range].copy_from_slice(bytes),
            Self::Shared(memory) => cells::write(&memory.data()[range], bytes),
        }
        Ok(())
    }

    pub(super) fn write_u32(&mut self, at: Pointer, value: u32) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_touched() {
        let mut bytes = [0; 8];
        let mut memory = Memory::Own(&mut bytes);
        assert!(memory.slice(Pointer(8), 0).is_ok());
        assert!(memory.slice(Pointer(9), 0).is_err());
        assert!(memory.slice(Pointer(4), 5).is_err());
        assert!(memory.slice(Pointer(u32::MAX), u32::MAX).is_err());
        assert!(memory.read::<4>(Pointer(5)).is_err());
        assert!(memory.write(Pointer(5), &[1; 4]).is_err());
        assert!(memory.write_u32(Pointer(4), u32::MAX).is_ok());
        assert_eq!(bytes, [0, 0, 0, 0, 255, 255, 255, 255]);
        assert!(Pointer(u32::MAX).element(1, 1).is_err());
        assert!(Pointer(0).element(u32::MAX, 8).is_err());
    }
}
