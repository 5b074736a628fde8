//! URLs.

use std::rc::Rc;

use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, member, text};

const URL: P = P::Of(Opaque::Url);

/// A URL in its parts: an absolute one, or an absolute path.
#[derive(Debug)]
pub(in super::super) struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// The functions of URLs.
pub(super) static TABLE: &[Overload] = &[
    global("url", &[P::Str], URL, |args, machine| {
        let text = text(args, 0)?;
        machine.spend(text.len() / 10)?;
        Url::parse(text).map(|url| Val::Url(Rc::new(url))).ok_or_else(|| {
            Fault::failed(format!("URL parse error during conversion from string: parse {text:?}: invalid URI for request"))
        })
    }),
    global("isURL", &[P::Str], P::Bool, |args, machine| {
        let text = text(args, 0)?;
        machine.spend(text.len() / 10)?;
        Ok(Val::Bool(Url::parse(text).is_some()))
    }),
    member("getScheme", &[URL], P::Str, |args, _| {
        Ok(Val::text(url(args)?.scheme.as_str()))
    }),
    member("getHost", &[URL], P::Str, |args, _| {
        Ok(Val::text(url(args)?.host.as_str()))
    }),
    member("getHostname", &[URL], P::Str, |args, _| {
        Ok(Val::text(url(args)?.split_host().0))
    }),
    member("getPort", &[URL], P::Str, |args, _| {
        Ok(Val::text(url(args)?.split_host().1))
    }),
    member("getEscapedPath", &[URL], P::Str, |args, _| {
        Ok(Val::text(url(args)?.path.as_str()))
    }),
    member(
        "getQuery",
        &[URL],
        P::Map(&P::Str, &P::List(&P::Str)),
        |args, machine| {
            let url = url(args)?;
            machine.spend(url.query.len())?;
            let mut entries: Vec<(String, Vec<Val<'_>>)> = Vec::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let (Some(key), Some(value)) = (unescape(key), unescape(value)) else {
                    continue;
                };
                match entries.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, values)) => values.push(Val::text(value)),
                    None => entries.push((key, vec![Val::text(value)])),
                }
            }
            let entries = entries
                .into_iter()
                .map(|(key, values)| (Val::text(key), Val::list(values)));
            Ok(Val::Map(Rc::new(entries.collect())))
        },
    ),
];

fn url<'v>(args: &'v [Val<'_>]) -> Result<&'v Url, Fault> {
    match arg(args, 0)? {
        Val::Url(url) => Ok(url),
        _ => Err(Fault::NoSuchOverload),
    }
}

/// Undoes the escapes of a query.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

impl Url {
    pub(in super::super) fn text(&self) -> &str {
        &self.text
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().any(|c| c.is_ascii_control() || c == ' ') {
            return None;
        }
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, rest) = if before.starts_with('/') {
            ("", before)
        } else {
            let (scheme, rest) = before.split_once(':')?;
            let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            if !well_formed || !rest.starts_with('/') {
                return None;
            }
            (scheme, rest)
        };
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let host = authority.rsplit('@').next().unwrap_or_default();
                (host, path)
            }
            None => ("", rest),
        };
        let url = Self {
            text: text.to_owned(),
            scheme: scheme.to_lowercase(),
            host: host.to_owned(),
            path: escaped(path)?,
            query: query.to_owned(),
        };
        let port = url.split_host().1;
        (port.chars().all(|c| c.is_ascii_digit()) && host_is_sound(host)).then_some(url)
    }

    /// The host without its port, and the port.
    fn split_host(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (host, port) = rest.split_once(']').unwrap_or((rest, ""));
            return (host, port.trim_start_matches(':'));
        }
        self.host.split_once(':').unwrap_or((&self.host, ""))
    }
}

fn host_is_sound(host: &str) -> bool {
    let brackets = host.matches(['[', ']']).count();
    match host.strip_prefix('[') {
        Some(rest) => {
            brackets == 2
                && rest.split_once(']').is_some_and(|(host, port)| {
                    host.parse::<std::net::Ipv6Addr>().is_ok()
                        && (port.is_empty() || port.starts_with(':'))
                })
        }
        None => {
            brackets == 0
                && host.matches(':').count() <= 1
                && !host.contains(['<', '>', '"', '\\', '^', '`', '{', '}', '|'])
        }
    }
}

/// The path with its escapes; `None` if one is malformed.
fn escaped(path: &str) -> Option<String> {
    unescape(&path.replace('+', "%2B"))?;
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = std::fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
    }
    Some(out)
}
