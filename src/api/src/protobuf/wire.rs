//! The wire format: a message is a row of fields, each a number and a payload of one of four forms.

use super::ProtobufError;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Payload<'b> {
    /// Whole numbers and booleans.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Strings, bytes and messages.
    Bytes(&'b [u8]),
}

impl<'b> Payload<'b> {
    pub(super) fn bytes(self) -> Result<&'b [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::WrongType),
        }
    }

    pub(super) fn text(self) -> Result<&'b str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Contents)
    }

    /// Negative numbers are sent as the 64 bits of their two's complement, whatever the type's width.
    pub(super) fn integer(self) -> Result<i64, ProtobufError> {
        match self {
            Self::Varint(bits) => Ok(bits.cast_signed()),
            _ => Err(ProtobufError::WrongType),
        }
    }

    pub(super) fn double(self) -> Result<f64, ProtobufError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Self::Fixed32(bits) => Ok(f32::from_bits(bits).into()),
            _ => Err(ProtobufError::WrongType),
        }
    }
}

/// The fields of a message, in their order. Ends after the first error.
pub(super) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { left: bytes }
}

pub(super) struct Fields<'b> {
    left: &'b [u8],
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u32, Payload<'b>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.left = &[];
        }
        Some(field)
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Result<(u32, Payload<'b>), ProtobufError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0);
        let number = number.ok_or(ProtobufError::Malformed)?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtobufError::Malformed),
        };
        Ok((number, payload))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (array, left) = self
            .left
            .split_first_chunk()
            .ok_or(ProtobufError::Malformed)?;
        self.left = left;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], ProtobufError> {
        let (taken, left) = self
            .left
            .split_at_checked(length)
            .ok_or(ProtobufError::Malformed)?;
        self.left = left;
        Ok(taken)
    }
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Where messages are written to.
#[derive(Debug, Default)]
pub(super) struct Sink(Vec<u8>);

impl Sink {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes that are written already.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.0.push(low_byte(value));
    }

    fn tag(&mut self, number: u32, form: u64) {
        self.varint(u64::from(number) << 3 | form);
    }

    pub(super) fn integer(&mut self, number: u32, value: i64) {
        self.tag(number, 0);
        self.varint(value.cast_unsigned());
    }

    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.tag(number, 1);
        self.raw(&value.to_bits().to_le_bytes());
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// A message, of which the length is known only after it has been written: there is room for one byte of it before, and
    /// the few large messages move.
    pub(super) fn nested(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        self.tag(number, 2);
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = low_byte(length as u64);
            return;
        }
        let mut prefix = Self::default();
        prefix.varint(length as u64);
        self.0.splice(at..=at, prefix.0);
    }
}
