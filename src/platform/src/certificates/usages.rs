//! What a certificate may be used for.

use std::collections::HashSet;

use crate::checks::one_of;
use vaquita_api::field::{Errors, FieldError, Path};

const KNOWN: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) fn validate(usages: &[String], path: &Path<'_>, errors: &mut Errors) {
    if usages.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (at, usage) in usages.iter().enumerate() {
        one_of(usage, &KNOWN, &path.index(at), errors);
    }
    let mut seen = HashSet::new();
    for (at, usage) in usages.iter().enumerate() {
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(&path.index(at), usage.as_str()));
        }
    }
}
