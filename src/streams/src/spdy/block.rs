//! Header blocks: name and value pairs, packed by zlib over the whole connection (SPDY/3, section 2.6.10).

use bytes::{Buf as _, BufMut as _, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{dictionary::DICTIONARY, frame::FrameError};
use crate::mux::Headers;

/// Pairs that a block may have; those of Kubernetes have three.
const MAX_PAIRS: u32 = 64;

/// Packs the blocks of one direction.
#[derive(Debug)]
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        // Only a stream that has begun refuses a dictionary. Without one, a peer can unpack all the same.
        let _ = zlib.set_dictionary(&DICTIONARY);
        Self(zlib)
    }

    /// Appends the block of `headers` to `out`.
    pub(super) fn pack(&mut self, headers: &Headers, out: &mut BytesMut) {
        let plain = plain(headers);
        let mut packed = Vec::with_capacity(plain.len() + 256);
        let mut rest = plain.as_slice();
        loop {
            let before = self.0.total_in();
            let status = self.0.compress_vec(rest, &mut packed, FlushCompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            // Room that is left over shows that the flush is complete.
            let done = rest.is_empty() && packed.len() < packed.capacity();
            if done || status.is_err() {
                break;
            }
            packed.reserve(256);
        }
        out.extend_from_slice(&packed);
    }
}

fn plain(headers: &Headers) -> Vec<u8> {
    let length = |text: &[u8]| u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut plain = Vec::new();
    plain.put_u32(u32::try_from(headers.0.len()).unwrap_or(u32::MAX));
    for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
        plain.put_u32(length(text.as_bytes()));
        plain.put_slice(text.as_bytes());
    }
    plain
}

/// Unpacks the blocks of one direction.
#[derive(Debug)]
pub(super) struct Unpacker {
    zlib: Decompress,
    limit: usize,
}

impl Unpacker {
    /// For blocks of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let zlib = Decompress::new(true);
        Self { zlib, limit }
    }

    /// The headers of a block. All blocks of a connection have to be given, in order.
    pub(super) fn unpack(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(block)?;
        parse(&plain)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        loop {
            if plain.len() > self.limit {
                return Err(FrameError::HeadersTooLarge);
            }
            if plain.len() == plain.capacity() {
                plain.reserve(1024);
            }
            let (before_in, before_out) = (self.zlib.total_in(), plain.len());
            let result = self
                .zlib
                .decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - before_in).unwrap_or(block.len());
            block = block.get(taken..).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| FrameError::BadHeaders)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(FrameError::BadHeaders),
                Ok(_) if block.is_empty() && plain.len() < plain.capacity() => return Ok(plain),
                Ok(_)
                    if taken == 0
                        && plain.len() == before_out
                        && plain.len() < plain.capacity() =>
                {
                    return Err(FrameError::BadHeaders);
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, FrameError> {
    let count = plain.try_get_u32().map_err(|_| FrameError::BadHeaders)?;
    if count > MAX_PAIRS {
        return Err(FrameError::HeadersTooLarge);
    }
    let mut text = || -> Result<String, FrameError> {
        let length = plain.try_get_u32().map_err(|_| FrameError::BadHeaders)?;
        let (text, rest) = plain
            .split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))
            .ok_or(FrameError::BadHeaders)?;
        plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| FrameError::BadHeaders)
    };
    let mut headers = Headers::default();
    for _ in 0..count {
        let (name, value) = (text()?.to_ascii_lowercase(), text()?);
        headers.0.push((name, value));
    }
    if plain.is_empty() {
        Ok(headers)
    } else {
        Err(FrameError::BadHeaders)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peer_without_the_dictionary_is_understood() {
        let headers = Headers::of(&[("streamtype", "error")]);
        let mut zlib = Compress::new(Compression::default(), true);
        let mut packed = Vec::with_capacity(1024);
        zlib.compress_vec(&plain(&headers), &mut packed, FlushCompress::Sync)
            .unwrap();
        assert_eq!(Unpacker::new(1024).unpack(&packed).unwrap(), headers);
    }

    #[test]
    fn a_small_block_does_not_become_a_large_one() {
        let bomb = Headers(vec![("a".to_owned(), "x".repeat(1 << 20))]);
        let mut packed = BytesMut::new();
        Packer::new().pack(&bomb, &mut packed);
        assert!(packed.len() < 16 << 10);
        let refused = Unpacker::new(16 << 10).unpack(&packed).unwrap_err();
        assert_eq!(refused, FrameError::HeadersTooLarge);
    }

    proptest! {
        #[test]
        fn blocks_come_back(blocks in proptest::collection::vec(
            proptest::collection::vec(("[a-z-]{0,12}", "\\PC{0,300}"), 0..8), 1..6,
        )) {
            let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new(64 << 10));
            for pairs in blocks {
                let headers = Headers(pairs);
                let mut packed = BytesMut::new();
                packer.pack(&headers, &mut packed);
                prop_assert_eq!(unpacker.unpack(&packed).unwrap(), headers);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = Unpacker::new(1024).unpack(&bytes);
        }
    }
}
