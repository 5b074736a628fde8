//! What names, labels and other small identifiers must look like.
//!
//! Each check gives the sentence that describes the rule when it is broken (k8s.io/apimachinery
//! `pkg/util/validation`), for an "Invalid value" error.

/// The longest DNS-1123 subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;
/// The longest DNS label, label value and name part of a qualified name, in bytes.
pub const LABEL_MAX: usize = 63;

/// Broken rules, in upstream's words; empty if all is well.
pub type Problems = Vec<String>;

fn max_len(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn with_examples(rule: &str, examples: &[&str], regex: &str) -> String {
    let quoted: Vec<String> = examples
        .iter()
        .map(|example| format!("'{example}'"))
        .collect();
    format!(
        "{rule} (e.g. {}, regex used for validation is '{regex}')",
        quoted.join(", or ")
    )
}

/// Starts and ends with `edge`, and has only `inner` in between.
fn shaped(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            edge(*first) && edge(*last) && bytes.iter().all(|byte| inner(*byte))
        }
        _ => false,
    }
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alphanumeric, |byte| {
        lower_alphanumeric(byte) || byte == b'-'
    })
}

/// RFC 1123 label: lower case letters, digits and `-`, at most 63 bytes.
pub fn dns1123_label(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(max_len(LABEL_MAX));
    }
    if text.contains('.') && text.split('.').all(is_label) {
        problems.push("must not contain dots".to_owned());
    } else if !is_label(text) {
        problems.push(with_examples(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character",
            &["my-name", "123-abc"],
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    problems
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 bytes.
pub fn dns1123_subdomain(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_len(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label) {
        problems.push(with_examples(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &["example.com"],
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        ));
    }
    problems
}

/// RFC 1035 label: as [`dns1123_label`], and starts with a letter.
pub fn dns1035_label(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(max_len(LABEL_MAX));
    }
    if !(is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())) {
        problems.push(with_examples(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    problems
}

fn is_name_part(text: &str) -> bool {
    shaped(
        text,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

const NAME_PART: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const NAME_PART_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                              alphanumeric character";
const NAME_PART_EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];

/// A qualified name: `name` or `dns.prefix/name`, as keys of labels and annotations are.
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|rule| format!("prefix part {rule}")),
                );
            }
            name
        }
        _ => {
            let rule = with_examples(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                 an alphanumeric character",
                &NAME_PART_EXAMPLES,
                NAME_PART,
            );
            problems.push(format!(
                "{rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return problems;
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !is_name_part(name) {
        problems.push(format!(
            "name part {}",
            with_examples(NAME_PART_RULE, &NAME_PART_EXAMPLES, NAME_PART)
        ));
    }
    problems
}

/// The value of a label: empty, or like the name part of a qualified name.
pub fn label_value(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(max_len(LABEL_MAX));
    }
    if !text.is_empty() && !is_name_part(text) {
        problems.push(with_examples(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
        ));
    }
    problems
}

/// A name that may stand in a URL's path as one segment; the least that any object's name must be.
pub fn path_segment(text: &str) -> Problems {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    let forbidden = ["/", "%"].into_iter().filter(|part| text.contains(part));
    forbidden
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// The name of a key of a `ConfigMap` or `Secret`.
pub fn config_map_key(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_len(SUBDOMAIN_MAX));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        problems.push(with_examples(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        ));
    }
    if text == "." {
        problems.push("must not be '.'".to_owned());
    } else if text == ".." {
        problems.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_var_name(text: &str) -> Problems {
    const RULE: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    if !text.is_empty() && text.bytes().all(printable) {
        return Problems::new();
    }
    vec![format!(
        "{RULE} (e.g. 'my.env-name', or 'MY_ENV.NAME', or 'MyEnvName1', regex used for validation is '[ -<>-~]+')"
    )]
}

/// The name of a port: RFC 6335, section 5.1.
pub fn port_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| lower_alphanumeric(byte) || byte == b'-')
    {
        problems.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// The number of a port.
pub fn port_number(port: i64) -> Problems {
    if (1..=65535).contains(&port) {
        Problems::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        type Case = (
            fn(&str) -> Problems,
            &'static [&'static str],
            &'static [&'static str],
        );
        let cases: [Case; 8] = [
            (
                dns1123_label,
                &["a", "0", "a-b", "0-9"],
                &["", "-a", "a-", "A", "a.b", "a_b", "ä"],
            ),
            (
                dns1123_subdomain,
                &["a", "a.b", "0.1"],
                &["", ".", "a.", ".a", "a..b", "A", "a/b"],
            ),
            (dns1035_label, &["a", "a0"], &["0a", "", "a.", "-a"]),
            (
                qualified_name,
                &["a", "A_b.c", "x.y/Z"],
                &["", "/a", "a/", "a/b/c", "X/y", "-a", "a b"],
            ),
            (label_value, &["", "A", "a.b_c-d"], &["-a", "a b", "a/b"]),
            (
                config_map_key,
                &["a", ".a", "A_B"],
                &["", ".", "..", "..a", "a/b"],
            ),
            (
                port_name,
                &["http", "h2c", "a-b"],
                &["", "1", "a--b", "-a", "A", "averyveryverylongname"],
            ),
            (env_var_name, &["A", "a.b-c", "a b"], &["", "a=b", "ä"]),
        ];
        for (at, (check, good, bad)) in cases.into_iter().enumerate() {
            for text in good {
                assert_eq!(check(text), Problems::new(), "{at}: {text:?}");
            }
            for text in bad {
                assert!(!check(text).is_empty(), "{at}: {text:?}");
            }
        }
        assert!(dns1123_label(&"a".repeat(63)).is_empty());
        assert_eq!(
            dns1123_label(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
    }
}
