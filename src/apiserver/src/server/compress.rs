//! Long answers, packed for clients that unpack.

use std::io::Write as _;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt as _, stream};
use http::{HeaderValue, header};
use http_body::Body as _;

/// Answers of at least this many bytes are packed: shorter ones are sooner sent than packed.
const THRESHOLD: u64 = 128 << 10;
/// The fastest level. Objects are repetitive enough that the others save little more.
const LEVEL: u32 = 1;

/// Packs the answer with gzip if it is long. Its length must be known: an endless one is left as it is.
pub(super) fn compress(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    let length = announced.or_else(|| body.size_hint().exact());
    if length.is_none_or(|length| length < THRESHOLD)
        || parts.headers.contains_key(header::CONTENT_ENCODING)
    {
        return Response::from_parts(parts, body);
    }
    let headers = &mut parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let packer = Packer {
        chunks: body.into_data_stream(),
        encoder: GzEncoder::new(Vec::new(), Compression::new(LEVEL)),
    };
    let chunks = stream::unfold(Some(packer), |packer| async {
        let mut packer = packer?;
        match packer.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(packer))),
            Ok(None) => {
                let rest = packer.encoder.finish().map(Bytes::from);
                Some((rest.map_err(axum::Error::new), None))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Response::from_parts(parts, Body::from_stream(chunks))
}

struct Packer {
    chunks: axum::body::BodyDataStream,
    encoder: GzEncoder<Vec<u8>>,
}

impl Packer {
    /// What comes next; `None` when only the end is left to be written.
    async fn next(&mut self) -> Result<Option<Bytes>, axum::Error> {
        while let Some(chunk) = self.chunks.next().await {
            self.encoder.write_all(&chunk?).map_err(axum::Error::new)?;
            let packed = std::mem::take(self.encoder.get_mut());
            if !packed.is_empty() {
                return Ok(Some(packed.into()));
            }
            tokio::task::consume_budget().await;
        }
        Ok(None)
    }
}
