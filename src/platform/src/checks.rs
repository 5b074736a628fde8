//! Checks and cells that several of these groups share, in the words that upstream has for them.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use serde::Serialize;
use serde_json::{Value, json};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, Problems};
use vaquita_api::selector;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network::NOT_AN_IP;
use vaquita_api::{Object, meta};

/// What is wrong with a value that may not change.
pub(crate) const IMMUTABLE: &str = "field is immutable";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
/// The longest name of a driver for storage or devices, in bytes.
const DRIVER_MAX: usize = 63;

/// A value that stays what it was.
pub(crate) fn immutable<T: PartialEq + Serialize>(
    new: &T,
    old: &T,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if new != old {
        errors.push(FieldError::invalid(path, json!(new), IMMUTABLE));
    }
}

/// A text that must be there and be of a form.
pub(crate) fn required(
    value: &str,
    form: fn(&str) -> Problems,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        invalid(path, value, form(value), errors);
    }
}

/// A text out of a few.
pub(crate) fn one_of(value: &str, supported: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// A number that is not below zero.
pub(crate) fn not_negative(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// The name of a driver: a subdomain in any case, of at most 63 bytes.
pub(crate) fn driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if name.len() > DRIVER_MAX {
        errors.push(FieldError::too_long(path, DRIVER_MAX));
    }
    invalid(
        path,
        name,
        names::dns1123_subdomain(&name.to_lowercase()),
        errors,
    );
}

/// The lifetime of a token that is asked for, in seconds.
pub(crate) fn token_lifetime(seconds: i64, path: &Path<'_>, errors: &mut Errors) {
    if seconds < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(path, seconds, detail));
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

/// A subdomain whose first label is `*`.
pub(crate) fn wildcard_subdomain(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > names::SUBDOMAIN_MAX {
        problems.push(format!(
            "must be no more than {} bytes",
            names::SUBDOMAIN_MAX
        ));
    }
    let rest = text.strip_prefix("*.").unwrap_or_default();
    if !names::dns1123_subdomain(rest).is_empty() {
        problems.push(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
             lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', \
             regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    problems
}

/// A subdomain of at least three labels.
pub(crate) fn fully_qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let problems = names::dns1123_subdomain(name);
    if !problems.is_empty() {
        errors.push(FieldError::invalid(path, name, problems.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// `example.com/path`.
pub(crate) fn domain_prefixed_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let (host, rest) = text.split_once('/').unwrap_or_default();
    if host.is_empty() || rest.is_empty() {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, text, detail));
        return;
    }
    invalid(path, host, names::dns1123_subdomain(host), errors);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(allowed) {
        let detail =
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(path, rest, detail));
    }
}

/// An address in the one way of writing that every program gives it.
pub(crate) fn canonical_ip(text: &str) -> Problems {
    match text.parse::<IpAddr>() {
        Err(_) => vec![NOT_AN_IP.to_owned()],
        Ok(ip) if ip != ip.to_canonical() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(ip) if ip.to_string() != text => {
            vec![format!("must be in canonical form (\"{ip}\")")]
        }
        Ok(_) => Problems::new(),
    }
}

/// A range of addresses: a network's address and how many of its bits are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// With every bit cleared that is not fixed.
    pub(crate) network: IpAddr,
    pub(crate) prefix: u32,
    /// Whether bits were set which are not fixed.
    stray: bool,
}

impl Cidr {
    /// Reads `10.0.0.0/8`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u32 = prefix.parse().ok().filter(|_| digits)?;
        let address: IpAddr = address.parse().ok()?;
        let network = Self::masked(address, prefix)?;
        Some(Self {
            network,
            prefix,
            stray: network != address,
        })
    }

    /// The address without what comes after the prefix; `None` if it hasn't that many bits.
    fn masked(address: IpAddr, prefix: u32) -> Option<IpAddr> {
        match address {
            IpAddr::V4(v4) => {
                let free = 32_u32.checked_sub(prefix)?;
                let mask = u32::MAX.checked_shl(free).unwrap_or_default();
                Some(IpAddr::from((v4.to_bits() & mask).to_be_bytes()))
            }
            IpAddr::V6(v6) => {
                let free = 128_u32.checked_sub(prefix)?;
                let mask = u128::MAX.checked_shl(free).unwrap_or_default();
                Some(IpAddr::from((v6.to_bits() & mask).to_be_bytes()))
            }
        }
    }

    /// Whether `other` is a part of this range, and not all of it.
    pub(crate) fn strictly_contains(self, other: Self) -> bool {
        self.prefix < other.prefix
            && self.network.is_ipv4() == other.network.is_ipv4()
            && Self::masked(other.network, self.prefix) == Some(self.network)
    }
}

/// A range of addresses, however it is written.
pub(crate) fn cidr(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Cidr> {
    let parsed = Cidr::parse(text);
    if parsed.is_none() {
        errors.push(FieldError::invalid(path, text, NOT_A_CIDR));
    }
    parsed
}

/// A range of addresses in the one way of writing that every program gives it.
pub(crate) fn canonical_cidr(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(parsed) = cidr(text, path, errors) else {
        return;
    };
    let canonical = format!("{}/{}", parsed.network, parsed.prefix);
    let detail = if parsed.network != parsed.network.to_canonical() {
        "must not have an IPv4-mapped IPv6 address".to_owned()
    } else if parsed.stray {
        "must not have bits set beyond the prefix length".to_owned()
    } else if canonical != text {
        format!("must be in canonical form (\"{canonical}\")")
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, text, detail));
}

/// The conditions that a status may have, at most one of each type.
pub(crate) fn conditions(conditions: &[Condition], path: &Path<'_>, errors: &mut Errors) {
    let mut types = HashSet::new();
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        if !types.insert(condition.type_.as_str()) {
            errors.push(FieldError::duplicate(
                &path.child("type"),
                condition.type_.as_str(),
            ));
        }
        validate_condition(condition, &path, errors);
    }
}

fn validate_condition(condition: &Condition, path: &Path<'_>, errors: &mut Errors) {
    const REASON_MAX: usize = 1 << 10;
    const MESSAGE_MAX: usize = 32 << 10;
    const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                          alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' \
                          (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', \
                          regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    invalid(
        &path.child("type"),
        &condition.type_,
        names::qualified_name(&condition.type_),
        errors,
    );
    one_of(
        &condition.status,
        &["False", "True", "Unknown"],
        &path.child("status"),
        errors,
    );
    if let Some(generation) = condition.observed_generation.filter(|number| *number < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(
            &path.child("observedGeneration"),
            generation,
            detail,
        ));
    }
    let (at, reason) = (path.child("reason"), condition.reason.as_str());
    if reason.is_empty() {
        errors.push(FieldError::required(&at, "must be set"));
    } else {
        if !is_reason(reason) {
            errors.push(FieldError::invalid(&at, reason, REASON));
        }
        if reason.len() > REASON_MAX {
            errors.push(FieldError::too_long(&at, REASON_MAX));
        }
    }
    if condition.message.len() > MESSAGE_MAX {
        errors.push(FieldError::too_long(&path.child("message"), MESSAGE_MAX));
    }
}

fn is_reason(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| word(byte) || b",:".contains(&byte))
        && text.bytes().last().is_some_and(word)
}

/// Takes the metadata of `old`, for a write that is about the status alone. What the server itself keeps there (the
/// version, who manages which field) stays.
pub(crate) fn keep_metadata(new: &mut Object, old: &Object) {
    const KEPT: [&str; 5] = [
        "annotations",
        "finalizers",
        "generation",
        "labels",
        "ownerReferences",
    ];
    let before = old.get("metadata").and_then(Value::as_object);
    let metadata = meta::metadata_mut(new);
    for field in KEPT {
        match before.and_then(|before| before.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// A selector as `kubectl` prints it: `<none>` for that of everything.
pub(crate) fn selector_cell(selector: Option<&LabelSelector>) -> String {
    let nothing = LabelSelector::default();
    match selector::LabelSelector::from_object(Some(selector.unwrap_or(&nothing))) {
        Ok(selector) if selector.is_everything() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// `a,b`, or what stands for nothing.
pub(crate) fn joined<T: Display>(items: impl IntoIterator<Item = T>, empty: &str) -> Value {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if texts.is_empty() {
        empty.into()
    } else {
        texts.join(",").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        let cidr = |text| Cidr::parse(text).unwrap();
        assert!(cidr("10.0.0.0/8").strictly_contains(cidr("10.1.0.0/16")));
        assert!(cidr("0.0.0.0/0").strictly_contains(cidr("10.1.0.0/16")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/8").strictly_contains(cidr("11.0.0.0/16")));
        assert!(!cidr("::/0").strictly_contains(cidr("11.0.0.0/16")));
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "x/8",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn wants_ranges_and_addresses_in_their_usual_form() {
        let problems = |text| {
            let mut errors = Errors::default();
            canonical_cidr(text, &Path::root("cidr"), &mut errors);
            errors.iter().map(FieldError::body).collect::<Vec<_>>()
        };
        assert_eq!(problems("2001:db8::/64"), [""; 0]);
        assert_eq!(
            problems("10.0.0.1/8"),
            ["Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"]
        );
        assert_eq!(
            problems("2001:DB8::/64"),
            ["Invalid value: \"2001:DB8::/64\": must be in canonical form (\"2001:db8::/64\")"]
        );
        assert_eq!(
            canonical_ip("::ffff:1.2.3.4"),
            ["must not be an IPv4-mapped IPv6 address"]
        );
        assert_eq!(
            canonical_ip("1::0"),
            ["must be in canonical form (\"1::\")"]
        );
    }

    #[test]
    fn knows_names_with_wildcards_and_paths() {
        assert_eq!(wildcard_subdomain("*.example.com"), [""; 0]);
        assert_eq!(wildcard_subdomain("*").len(), 1);
        assert_eq!(wildcard_subdomain("a.*.b").len(), 1);
        let problems = |text| {
            let mut errors = Errors::default();
            domain_prefixed_path(text, &Path::root("p"), &mut errors);
            errors.len()
        };
        assert_eq!(problems("example.com/a/b"), 0);
        assert_eq!(problems("example.com"), 1);
        assert_eq!(problems("A/b c"), 2);
    }
}
