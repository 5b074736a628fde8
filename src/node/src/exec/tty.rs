//! As much of a terminal as a person who types needs.
//!
//! A client of a terminal passes on every key as it is pressed, and shows what comes back; echo, lines and the special
//! keys are the other side's business. A kernel's terminal driver does that for ordinary processes: this does it here, in
//! its canonical mode. Backspace, Ctrl-U (the line away), Ctrl-D (end of input) and Ctrl-C (end of the process) work.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;
use vaquita_runtime::{LogStream, OutputSink};

/// The longest line that can be edited, as a kernel has it.
const LONGEST_LINE: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const KILL_LINE: u8 = 0x15;

/// Lines of what is typed.
pub(crate) struct Typed<R> {
    keys: R,
    echo: Arc<dyn OutputSink>,
    interrupted: CancellationToken,
    line: BytesMut,
    /// Lines that are complete and were not read yet.
    ready: Bytes,
    is_over: bool,
}

impl<R> Typed<R> {
    /// Reads keys, echoes them, and cancels `interrupted` at Ctrl-C.
    pub(crate) fn new(keys: R, echo: Arc<dyn OutputSink>, interrupted: CancellationToken) -> Self {
        Self {
            keys,
            echo,
            interrupted,
            line: BytesMut::new(),
            ready: Bytes::new(),
            is_over: false,
        }
    }

    /// Takes keys until a line is complete; what remains is kept.
    fn press(&mut self, keys: &[u8]) {
        let mut complete = BytesMut::from(&self.ready[..]);
        let mut shown = Vec::new();
        for &key in keys {
            match key {
                b'\r' | b'\n' => {
                    shown.push(b'\n');
                    self.line.extend_from_slice(b"\n");
                    complete.extend_from_slice(&self.line.split());
                }
                INTERRUPT => {
                    shown.extend_from_slice(b"^C\n");
                    self.line.clear();
                    self.interrupted.cancel();
                }
                END if self.line.is_empty() => self.is_over = true,
                END => complete.extend_from_slice(&self.line.split()),
                0x7f | 0x08 if self.line.is_empty() => {}
                0x7f | 0x08 => {
                    erase(&mut self.line);
                    shown.extend_from_slice(b"\x08 \x08");
                }
                KILL_LINE => {
                    let letters = String::from_utf8_lossy(&self.line).chars().count();
                    shown.extend(b"\x08 \x08".repeat(letters));
                    self.line.clear();
                }
                key if self.line.len() < LONGEST_LINE => {
                    self.line.extend_from_slice(&[key]);
                    shown.push(key);
                }
                _ => {}
            }
        }
        self.ready = complete.freeze();
        if !shown.is_empty() {
            self.echo.write(LogStream::Stdout, &shown);
        }
    }
}

/// Takes the last letter away, however many bytes it has.
fn erase(line: &mut BytesMut) {
    let is_inner = |byte: u8| byte & 0xc0 == 0x80;
    while let Some(last) = line.last().copied() {
        line.truncate(line.len() - 1);
        if !is_inner(last) {
            return;
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Typed<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() && !this.is_over {
            let mut keys = [0; 512];
            let mut keys = ReadBuf::new(&mut keys);
            ready!(Pin::new(&mut this.keys).poll_read(context, &mut keys))?;
            if keys.filled().is_empty() {
                this.is_over = true;
                this.ready = this.line.split().freeze();
            } else {
                this.press(keys.filled());
            }
        }
        let count = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// Ends lines as a terminal needs it: a line feed alone would leave the cursor where it is.
pub(crate) fn to_terminal(bytes: &[u8]) -> Bytes {
    if !bytes.contains(&b'\n') {
        return Bytes::copy_from_slice(bytes);
    }
    let mut shown = BytesMut::with_capacity(bytes.len() + 16);
    let mut before = 0;
    for &byte in bytes {
        if byte == b'\n' && before != b'\r' {
            shown.extend_from_slice(b"\r");
        }
        shown.extend_from_slice(&[byte]);
        before = byte;
    }
    shown.freeze()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::exec::outlet::Outlet;

    async fn typed(keys: &[u8]) -> (String, String, bool) {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(keys).await.unwrap();
        drop(client);
        let (echo, interrupted) = (Arc::new(Outlet::default()), CancellationToken::new());
        let mut lines = Typed::new(server, echo.clone(), interrupted.clone());
        let mut read = String::new();
        lines.read_to_string(&mut read).await.unwrap();
        echo.finish();
        let mut shown = String::new();
        while let Some((_, piece)) = echo.next().await {
            shown.push_str(std::str::from_utf8(&piece).unwrap());
        }
        (read, shown, interrupted.is_cancelled())
    }

    #[tokio::test]
    async fn lines_can_be_edited() {
        let (read, shown, _) = typed("heé\x7f\x7fx\rnext".as_bytes()).await;
        assert_eq!(read, "hx\nnext");
        assert_eq!(shown, "heé\x08 \x08\x08 \x08x\nnext");
        assert_eq!(typed(b"gone\x15kept\r").await.0, "kept\n");
    }

    #[tokio::test]
    async fn control_d_ends_and_control_c_interrupts() {
        let (read, _, is_interrupted) = typed(b"a\r\x04never").await;
        assert_eq!((read.as_str(), is_interrupted), ("a\n", false));
        let (read, _, is_interrupted) = typed(b"a\x03").await;
        assert_eq!((read.as_str(), is_interrupted), ("", true));
    }

    #[test]
    fn lines_end_with_a_carriage_return() {
        assert_eq!(to_terminal(b"a\nb\r\nc"), "a\r\nb\r\nc");
    }
}
