//! Forms as browsers send them: `application/x-www-form-urlencoded`.

/// The first field of that name, decoded. What is no UTF-8 becomes U+FFFD.
pub(crate) fn field(body: &[u8], name: &str) -> Option<String> {
    body.split(|byte| *byte == b'&').find_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let key = halves.next()?;
        (decode(key) == name).then(|| decode(halves.next().unwrap_or_default()))
    })
}

fn decode(bytes: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        decoded.push(match first {
            b'+' => b' ',
            b'%' => match behind.first_chunk().and_then(|digits| hexadecimal(*digits)) {
                Some(byte) => {
                    rest = &behind[2..];
                    byte
                }
                None => b'%',
            },
            other => *other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    });
    Some(high? << 4 | low?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_decoded() {
        let body = b"a=1&entry=caf%C3%A9+%26+100%25&entry=second&empty&%61b=3";
        assert_eq!(field(body, "entry").as_deref(), Some("café & 100%"));
        assert_eq!(field(body, "empty").as_deref(), Some(""));
        assert_eq!(field(body, "ab").as_deref(), Some("3"));
        assert_eq!(field(body, "absent"), None);
    }

    #[test]
    fn what_is_malformed_stays_as_it_is() {
        for (coded, expected) in [
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%+1", "% 1"),
            ("a=b", "a=b"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(
                field(format!("x={coded}").as_bytes(), "x").as_deref(),
                Some(expected)
            );
        }
    }
}
