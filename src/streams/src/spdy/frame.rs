//! Frames of SPDY/3.1 as bytes (section 2.2 of the specification): a decoder and an encoder without any I/O.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::block::{Packer, Unpacker};
use crate::mux::Headers;

/// The head of every frame.
const HEAD: usize = 8;
/// The bit that tells control frames from data frames.
const CONTROL: u32 = 1 << 31;
/// The version in control frames.
const VERSION: u32 = 3;
/// Low 24 bits: a frame's length.
const LENGTH: u32 = 0x00ff_ffff;
/// Low 31 bits: a stream's number, a window.
const NUMBER: u32 = 0x7fff_ffff;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
/// Entries that a SETTINGS frame may have; eight kinds are defined.
const MAX_SETTINGS: u32 = 64;
/// The largest control frame that is looked at, next to its header block.
const FIXED_PART: usize = 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The id of `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const INITIAL_WINDOW_SIZE: u32 = 7;

/// Why bytes are not SPDY/3.1, or more than is accepted. Nothing can be read after such an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A control frame of another version.
    #[error("unsupported SPDY version")]
    Version,
    /// A frame whose length or content does not fit its kind.
    #[error("malformed SPDY frame of type {0}")]
    Malformed(u16),
    /// A control frame that is larger than is accepted.
    #[error("SPDY control frame too large")]
    TooLarge,
    /// A header block that cannot be unpacked or read.
    #[error("malformed SPDY header block")]
    BadHeaders,
    /// A header block that is larger than is accepted.
    #[error("SPDY header block too large")]
    HeadersTooLarge,
}

/// A frame. `id` is a stream's number, never 0 where a stream is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        id: u32,
        /// The stream it belongs to; 0 for none.
        associated: u32,
        /// 0 is the highest, 7 the lowest.
        priority: u8,
        /// Whether its sender sends nothing on it.
        fin: bool,
        /// Whether its receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// Whether its sender sends nothing on it.
        fin: bool,
        /// What there is to say about it.
        headers: Headers,
    },
    /// Ends a stream at once.
    RstStream {
        /// The stream.
        id: u32,
        /// Why: see section 2.6.3.
        code: u32,
    },
    /// Ids and values.
    Settings(Vec<(u32, u32)>),
    /// To be sent back by whoever did not make up the number.
    Ping(u32),
    /// No streams after `last` are looked at.
    GoAway {
        /// The last stream that was.
        last: u32,
        /// Why: see section 2.6.6.
        code: u32,
    },
    /// Further headers.
    Headers {
        /// The stream.
        id: u32,
        /// Whether they are the last that is sent on it.
        fin: bool,
        /// They.
        headers: Headers,
    },
    /// More data may be sent.
    WindowUpdate {
        /// The stream; 0 for the whole connection.
        id: u32,
        /// How many bytes more.
        delta: u32,
    },
    /// Data; a large frame comes as several.
    Data {
        /// The stream.
        id: u32,
        /// Whether it is the last that is sent on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// What the decoder is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Head,
    Data {
        id: u32,
        fin: bool,
        left: usize,
    },
    /// A frame of a kind that does not matter here.
    Unknown {
        left: usize,
    },
}

/// Makes frames of bytes.
#[derive(Debug)]
pub struct Decoder {
    within: Within,
    unpacker: Unpacker,
    limit: usize,
}

impl Decoder {
    /// For header blocks of at most `headers` bytes, packed and unpacked.
    pub fn new(headers: usize) -> Self {
        Self {
            within: Within::Head,
            unpacker: Unpacker::new(headers),
            limit: headers,
        }
    }

    /// Takes the next frame off the front of `bytes`; `None` if more is needed. Data frames are given piece by piece, as
    /// they come.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.within {
                Within::Data { id, fin, left } => {
                    return Ok(self.data(bytes, id, fin, left));
                }
                Within::Unknown { left } => {
                    let skipped = left.min(bytes.len());
                    bytes.advance(skipped);
                    if skipped < left {
                        let left = left - skipped;
                        self.within = Within::Unknown { left };
                        return Ok(None);
                    }
                    self.within = Within::Head;
                }
                Within::Head => match self.head(bytes)? {
                    Head::Incomplete => return Ok(None),
                    Head::Control(frame) => return Ok(Some(frame)),
                    Head::Other => {}
                },
            }
        }
    }

    fn data(&mut self, bytes: &mut BytesMut, id: u32, fin: bool, left: usize) -> Option<Frame> {
        if bytes.is_empty() && left > 0 {
            return None;
        }
        let data = bytes.split_to(left.min(bytes.len())).freeze();
        let left = left - data.len();
        self.within = match left {
            0 => Within::Head,
            left => Within::Data { id, fin, left },
        };
        let fin = fin && left == 0;
        Some(Frame::Data { id, fin, data })
    }

    fn head(&mut self, bytes: &mut BytesMut) -> Result<Head, FrameError> {
        let Some(mut head) = bytes.get(..HEAD) else {
            return Ok(Head::Incomplete);
        };
        let (word, flags_and_length) = (head.get_u32(), head.get_u32());
        let flags = (flags_and_length >> 24) as u8;
        let length = (flags_and_length & LENGTH) as usize;
        if word & CONTROL == 0 {
            bytes.advance(HEAD);
            let (id, fin) = (word, flags & FLAG_FIN != 0);
            self.within = Within::Data {
                id,
                fin,
                left: length,
            };
            return Ok(Head::Other);
        }
        if (word & !CONTROL) >> 16 != VERSION {
            return Err(FrameError::Version);
        }
        let kind = (word & 0xffff) as u16;
        if !matches!(kind, SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE) {
            bytes.advance(HEAD);
            self.within = Within::Unknown { left: length };
            return Ok(Head::Other);
        }
        if length > self.limit + FIXED_PART {
            return Err(FrameError::TooLarge);
        }
        if bytes.len() < HEAD + length {
            return Ok(Head::Incomplete);
        }
        bytes.advance(HEAD);
        let payload = bytes.split_to(length).freeze();
        self.control(kind, flags, payload).map(Head::Control)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FLAG_FIN != 0;
        let mut number = || -> Result<u32, FrameError> {
            body.try_get_u32().map_err(|_| FrameError::Malformed(kind))
        };
        let frame = match kind {
            SYN_STREAM => {
                let (id, associated) = (number()? & NUMBER, number()? & NUMBER);
                let priority = body
                    .try_get_u16()
                    .map_err(|_| FrameError::Malformed(kind))?
                    >> 13;
                return Ok(Frame::SynStream {
                    id,
                    associated,
                    priority: priority as u8,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: self.unpacker.unpack(&body)?,
                });
            }
            SYN_REPLY | HEADERS => {
                let id = number()? & NUMBER;
                let headers = self.unpacker.unpack(&body)?;
                return Ok(if kind == SYN_REPLY {
                    Frame::SynReply { id, fin, headers }
                } else {
                    Frame::Headers { id, fin, headers }
                });
            }
            SETTINGS => return settings(&mut body),
            RST_STREAM => Frame::RstStream {
                id: number()? & NUMBER,
                code: number()?,
            },
            PING => Frame::Ping(number()?),
            GOAWAY => Frame::GoAway {
                last: number()? & NUMBER,
                code: number()?,
            },
            _ => Frame::WindowUpdate {
                id: number()? & NUMBER,
                delta: number()? & NUMBER,
            },
        };
        if body.is_empty() {
            Ok(frame)
        } else {
            Err(FrameError::Malformed(kind))
        }
    }
}

enum Head {
    Incomplete,
    Control(Frame),
    /// `within` says how to go on.
    Other,
}

fn settings(body: &mut Bytes) -> Result<Frame, FrameError> {
    let malformed = FrameError::Malformed(SETTINGS);
    let count = body.try_get_u32().map_err(|_| malformed)?;
    if count > MAX_SETTINGS || body.len() != count as usize * 8 {
        return Err(malformed);
    }
    let mut entries = Vec::new();
    while body.has_remaining() {
        // The first byte of an entry's id is flags.
        let id = body.try_get_u32().map_err(|_| malformed)? & LENGTH;
        entries.push((id, body.try_get_u32().map_err(|_| malformed)?));
    }
    Ok(Frame::Settings(entries))
}

/// Makes bytes of frames.
#[derive(Debug)]
pub struct Encoder(Packer);

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// For one direction of a connection.
    pub fn new() -> Self {
        Self(Packer::new())
    }

    /// Appends `frame` to `out`. Frames have to be sent in the order in which they are encoded. Of data, what is
    /// beyond 16 MiB less one byte does not fit and is left out.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream {
                id,
                associated,
                priority,
                fin,
                unidirectional,
                headers,
            } => {
                let one_way = if *unidirectional {
                    FLAG_UNIDIRECTIONAL
                } else {
                    0
                };
                let start = begin(out, SYN_STREAM, u8::from(*fin) | one_way);
                out.put_u32(*id);
                out.put_u32(*associated);
                out.put_u16(u16::from(*priority & 7) << 13);
                self.0.pack(headers, out);
                finish(out, start);
            }
            Frame::SynReply { id, fin, headers } => self.reply(SYN_REPLY, *id, *fin, headers, out),
            Frame::Headers { id, fin, headers } => self.reply(HEADERS, *id, *fin, headers, out),
            Frame::RstStream { id, code } => numbers(out, RST_STREAM, &[*id, *code]),
            Frame::Ping(id) => numbers(out, PING, &[*id]),
            Frame::GoAway { last, code } => numbers(out, GOAWAY, &[*last, *code]),
            Frame::WindowUpdate { id, delta } => numbers(out, WINDOW_UPDATE, &[*id, *delta]),
            Frame::Settings(entries) => {
                let start = begin(out, SETTINGS, 0);
                out.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                for (id, value) in entries {
                    out.put_u32(id & LENGTH);
                    out.put_u32(*value);
                }
                finish(out, start);
            }
            Frame::Data { id, fin, data } => {
                let data = &data[..data.len().min(LENGTH as usize)];
                out.put_u32(id & NUMBER);
                out.put_u32(u32::from(*fin) << 24 | u32::try_from(data.len()).unwrap_or(LENGTH));
                out.put_slice(data);
            }
        }
    }

    fn reply(&mut self, kind: u16, id: u32, fin: bool, headers: &Headers, out: &mut BytesMut) {
        let start = begin(out, kind, u8::from(fin));
        out.put_u32(id);
        self.0.pack(headers, out);
        finish(out, start);
    }
}

/// Starts a control frame; returns where.
fn begin(out: &mut BytesMut, kind: u16, flags: u8) -> usize {
    let start = out.len();
    out.put_u32(CONTROL | VERSION << 16 | u32::from(kind));
    out.put_u32(u32::from(flags) << 24);
    start
}

/// Writes the length of the frame that began at `start`.
fn finish(out: &mut BytesMut, start: usize) {
    let length = u32::try_from(out.len() - start - HEAD).unwrap_or(LENGTH);
    if let Some(field) = out.get_mut(start + 5..start + HEAD) {
        field.copy_from_slice(&length.to_be_bytes()[1..]);
    }
}

fn numbers(out: &mut BytesMut, kind: u16, numbers: &[u32]) {
    let start = begin(out, kind, 0);
    for number in numbers {
        out.put_u32(*number);
    }
    finish(out, start);
}

#[cfg(test)]
mod tests;
