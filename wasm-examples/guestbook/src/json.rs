//! The little JSON that is needed.

use std::fmt::Write as _;

/// An array of strings, and a line break.
pub(crate) fn array(strings: &[String]) -> String {
    let strings: Vec<_> = strings.iter().map(|text| string(text)).collect();
    format!("[{}]\n", strings.join(","))
}

fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Writing to a string cannot fail.
            control if control < ' ' => drop(write!(out, "\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_forbids_is_escaped() {
        assert_eq!(array(&[]), "[]\n");
        assert_eq!(
            array(&["a\"\\\n\u{1f}é".to_owned(), String::new()]),
            "[\"a\\\"\\\\\\u000a\\u001fé\",\"\"]\n"
        );
    }
}
