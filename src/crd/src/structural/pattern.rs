//! Regular expressions as schemas and rules write them: in the syntax of Go's `regexp` (RE2).
//!
//! The `regex` crate knows nearly the same syntax, with the same promise of linear time. Where the two differ, the
//! pattern is rewritten: Go's `\d`, `\w`, `\s` and `\b` are about ASCII only, a bracket inside of a class stands for
//! itself, and `\Q...\E` quotes.

use std::sync::{Arc, OnceLock};

use regex::{Regex, RegexBuilder};

/// The most memory that one compiled pattern may take, in bytes.
const SIZE_LIMIT: usize = 2 << 20;

/// A pattern of a schema. It is compiled when it is first used: definitions have many, objects use few.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    compiled: Arc<OnceLock<Option<Regex>>>,
}

impl Pattern {
    pub(super) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            compiled: Arc::default(),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether `text` matches. A pattern that can't be compiled, which a definition does not have, matches nothing.
    pub fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.source).ok());
        compiled
            .as_ref()
            .is_some_and(|pattern| pattern.is_match(text))
    }
}

/// Compiles a pattern in Go's syntax.
pub(crate) fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(source))
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .build()
}

fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut chars = source.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('Q') => quote(&mut chars, &mut out),
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(r"[\t\n\f\r ]"),
                Some('S') => out.push_str(r"[^\t\n\f\r ]"),
                Some('b') if !in_class => out.push_str(r"(?-u:\b)"),
                Some('B') if !in_class => out.push_str(r"(?-u:\B)"),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            '[' if in_class && chars.peek() == Some(&':') => {
                // A named class such as `[:alpha:]`, up to its end.
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' if in_class => out.push_str(r"\["),
            '[' => {
                in_class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that comes first stands for itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str(r"\]");
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Copies a quotation up to its end, escaped.
fn quote(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    let mut quoted = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.next_if_eq(&'E').is_some() {
            break;
        }
        quoted.push(c);
    }
    out.push_str(&regex::escape(&quoted));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap().is_match(text)
    }

    #[test]
    fn understands_the_syntax_of_go() {
        assert!(matches(r"^\d+$", "12"));
        assert!(!matches(r"^\d+$", "١٢"));
        assert!(matches(r"^[\w.]+$", "a_1.b"));
        assert!(matches(r"^[[]$", "["));
        assert!(matches(r"^[]a]+$", "]a"));
        assert!(matches(r"^[[:alpha:]-]+$", "a-b"));
        assert!(matches(r"^\Qa.b\E$", "a.b"));
        assert!(!matches(r"^\Qa.b\E$", "axb"));
        assert!(matches(r"a\/b", "a/b"));
        assert!(matches(r"\bfoo\b", "a foo b"));
        assert!(matches(r"^[^\s]+$", "ab"));
        assert!(compile("(").is_err());
        assert!(compile("(?=a)").is_err());
        assert!(compile(r"(a{1000}){1000}").is_err());
    }
}
