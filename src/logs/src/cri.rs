//! One line of a log: `2016-10-06T00:17:09.669794202Z stdout F message`.
//!
//! The tag is `F` for a full line and `P` for a part of one: the next line of the same stream continues it.

use std::io::Write as _;

use jiff::Timestamp;
use vaquita_runtime::LogStream;

/// A line in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: &'a str,
    pub(super) stream: LogStream,
    /// Whether its end is not the end of what was written as a line.
    pub(super) is_partial: bool,
    pub(super) content: &'a [u8],
}

/// Appends a line as it came from a guest: with its newline, or without one if it is a part.
pub(super) fn append(buffer: &mut Vec<u8>, time: Timestamp, stream: LogStream, line: &[u8]) {
    let (content, tag) = match line.strip_suffix(b"\n") {
        Some(content) => (content, 'F'),
        None => (line, 'P'),
    };
    // Writing to memory cannot fail.
    let _ = write!(buffer, "{time:.9} {stream} {tag} ");
    buffer.extend_from_slice(content);
    buffer.push(b'\n');
}

/// Takes a line apart; its newline is not part of it. `None` if it is none of ours.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let is_partial = match parts.next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line {
        time,
        stream,
        is_partial,
        content: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_and_read_as_cri_has_them() {
        let time: Timestamp = "2016-10-06T00:17:09.5Z".parse().unwrap();
        let mut buffer = Vec::new();
        append(&mut buffer, time, LogStream::Stdout, b"a  b \n");
        append(&mut buffer, time, LogStream::Stderr, b"part");
        append(&mut buffer, time, LogStream::Stdout, b"\n");
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(
            text,
            "2016-10-06T00:17:09.500000000Z stdout F a  b \n\
             2016-10-06T00:17:09.500000000Z stderr P part\n\
             2016-10-06T00:17:09.500000000Z stdout F \n"
        );
        let lines: Vec<_> = text
            .lines()
            .map(|line| parse(line.as_bytes()).unwrap())
            .collect();
        assert_eq!(
            (lines[0].content, lines[0].is_partial),
            (&b"a  b "[..], false)
        );
        assert_eq!(
            (lines[1].stream, lines[1].is_partial),
            (LogStream::Stderr, true)
        );
        assert_eq!(lines[2].content, b"");
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in [
            &b""[..],
            b"hello",
            b"t stdout F",
            b"t stdlog F x",
            b"t stdout X x",
            b"\xff stdout F x",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
