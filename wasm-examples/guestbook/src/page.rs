//! The page.

use std::fmt::Write as _;

const TEMPLATE: &str = include_str!("page.html");

/// The page with these entries, for this visit, from this host.
pub(crate) fn render(entries: &[String], visits: i64, host: &str) -> String {
    let mut items = String::new();
    for entry in entries {
        // Writing to a string cannot fail.
        let _ = writeln!(items, "  <li>{}</li>", escape(entry));
    }
    // Entries go in last: what guests write is never searched for places to fill in.
    TEMPLATE
        .replacen("{visits}", &visits.to_string(), 1)
        .replacen("{host}", &escape(host), 1)
        .replacen("{entries}", &items, 1)
}

/// Text as it may stand in an element or in a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_cannot_write_html_nor_fill_in_places() {
        let page = render(
            &["<script>&'\"".to_owned(), "{host} {entries}".to_owned()],
            3,
            "web-1",
        );
        assert!(
            page.contains("<li>&lt;script&gt;&amp;&#39;&quot;</li>"),
            "{page}"
        );
        assert!(page.contains("<li>{host} {entries}</li>"), "{page}");
        assert!(page.contains("visit 3, served by web-1"), "{page}");
    }
}
