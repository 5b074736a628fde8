//! A guest's memory, where every address is suspect.

use wasmtime_wasi::p1::types::Errno;

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
pub(super) struct Memory<'a>(&'a mut [u8]);

impl<'a> Memory<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn slice(&self, at: Pointer, length: u32) -> Result<&[u8], Errno> {
        let rest = self.0.get(at.0 as usize..).ok_or(Errno::Fault)?;
        rest.get(..length as usize).ok_or(Errno::Fault)
    }

    pub(super) fn slice_mut(&mut self, at: Pointer, length: u32) -> Result<&mut [u8], Errno> {
        let rest = self.0.get_mut(at.0 as usize..).ok_or(Errno::Fault)?;
        rest.get_mut(..length as usize).ok_or(Errno::Fault)
    }

    pub(super) fn read<const N: usize>(&self, at: Pointer) -> Result<[u8; N], Errno> {
        let rest = self.0.get(at.0 as usize..).ok_or(Errno::Fault)?;
        rest.first_chunk::<N>().copied().ok_or(Errno::Fault)
    }

    pub(super) fn read_u32(&self, at: Pointer) -> Result<u32, Errno> {
        self.read(at).map(u32::from_le_bytes)
    }

    pub(super) fn write(&mut self, at: Pointer, bytes: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        self.slice_mut(at, length)?.copy_from_slice(bytes);
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
        let mut memory = Memory::new(&mut bytes);
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
