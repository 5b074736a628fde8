//! The name of a signer: `example.com/name`.

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::{self, LABEL_MAX, Problems, SUBDOMAIN_MAX};

/// What requests of an older version of the API stood under.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

pub(super) fn validate(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name == LEGACY {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(path, name, detail));
        return;
    }
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, detail));
        return;
    };
    if domain.len() > SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, SUBDOMAIN_MAX));
    }
    labels(domain, names::dns1123_label, path, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    labels(rest, names::dns1123_subdomain, path, errors);
    // Room for a domain, and for a label and another domain in the path.
    let max = SUBDOMAIN_MAX + 1 + (SUBDOMAIN_MAX + LABEL_MAX + 1);
    if name.len() > max {
        errors.push(FieldError::too_long(path, max));
    }
}

/// Says what is wrong with the first bad one of the labels.
fn labels(text: &str, form: fn(&str) -> Problems, path: &Path<'_>, errors: &mut Errors) {
    let mut bad = text.split('.').map(|label| (label, form(label)));
    if let Some((label, problems)) = bad.find(|(_, problems)| !problems.is_empty()) {
        for problem in problems {
            let detail = format!("validating label {label:?}: {problem}");
            errors.push(FieldError::invalid(path, text, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_a_domain_and_a_name() {
        let problems = |name| {
            let mut errors = Errors::default();
            validate(name, &Path::root("n"), &mut errors);
            errors.iter().map(FieldError::body).collect::<Vec<_>>()
        };
        assert_eq!(problems("example.com/a.b"), [""; 0]);
        assert_eq!(problems(""), ["Required value"]);
        assert_eq!(
            problems("local/a"),
            [
                "Invalid value: \"local\": should be a domain with at least two segments separated by dots"
            ]
        );
        assert_eq!(problems("a/b/c").len(), 1);
        let errors = problems("Example.com/A");
        assert!(errors[0].starts_with(
            "Invalid value: \"Example.com\": validating label \"Example\": a lowercase RFC 1123 label"
        ));
        assert_eq!(errors.len(), 2);
    }
}
