//! How objects become those of another version.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, ServiceReference, WebhookClientConfig,
};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names::dns1035_label;

/// The versions of `ConversionReview` that are spoken here.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// `strict` once the definition is established: a certificate that can't be read is refused only then.
pub(super) fn validate(
    conversion: Option<&CustomResourceConversion>,
    strict: bool,
    errors: &mut Errors,
) {
    let Some(conversion) = conversion else {
        return;
    };
    let spec = Path::root("spec");
    let path = spec.child("conversion");
    match conversion.strategy.as_str() {
        "" => errors.push(FieldError::required(&path.child("strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_listed(
            &path.child("strategy"),
            other,
            &["None", "Webhook"],
        )),
    }
    let webhook = conversion.webhook.as_ref();
    let config = webhook.and_then(|webhook| webhook.client_config.as_ref());
    let reviews = webhook.map_or(&[][..], |webhook| &webhook.conversion_review_versions);
    let (config_path, reviews_path) = (
        path.child("webhookClientConfig"),
        path.child("conversionReviewVersions"),
    );
    if conversion.strategy == "Webhook" {
        match config {
            None => {
                const DETAIL: &str = "required when strategy is set to Webhook";
                errors.push(FieldError::required(&config_path, DETAIL));
            }
            Some(config) => client_config(config, strict, &config_path, errors),
        }
        review_versions(reviews, &reviews_path, errors);
    } else {
        const DETAIL: &str = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.push(FieldError::forbidden(&config_path, DETAIL));
        }
        if !reviews.is_empty() {
            errors.push(FieldError::forbidden(&reviews_path, DETAIL));
        }
    }
}

fn client_config(config: &WebhookClientConfig, strict: bool, path: &Path<'_>, errors: &mut Errors) {
    match (&config.url, &config.service) {
        (Some(url), None) => webhook_url(url, &path.child("url"), errors),
        (None, Some(reference)) => service(reference, &path.child("service"), errors),
        _ => {
            const DETAIL: &str = "exactly one of url or service is required";
            errors.push(FieldError::required(path, DETAIL));
        }
    }
    let bundle = config
        .ca_bundle
        .as_ref()
        .filter(|bundle| !bundle.0.is_empty());
    if let Some(bundle) = bundle.filter(|_| strict) {
        let text = String::from_utf8_lossy(&bundle.0);
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            const DETAIL: &str =
                "unable to load root certificates: unable to parse bytes as PEM block";
            errors.push(FieldError::invalid(&path.child("caBundle"), "", DETAIL));
        }
    }
}

fn webhook_url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |what: &str| {
        errors.push(FieldError::invalid(path, url, format!("{what}{FORM}")));
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        wrong("url must be a valid URL");
        return;
    };
    if scheme != "https" {
        errors.push(FieldError::invalid(
            path,
            scheme,
            format!("'https' is the only allowed URL scheme{FORM}"),
        ));
        return;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        wrong("host must be specified");
    }
    if authority.contains('@') {
        wrong("user information is not permitted in the URL");
    }
    if rest.contains('#') {
        wrong("fragments are not permitted in the URL");
    }
    if rest.contains('?') {
        wrong("query parameters are not permitted in the URL");
    }
}

fn service(service: &ServiceReference, path: &Path<'_>, errors: &mut Errors) {
    for (field, value, what) in [
        ("name", &service.name, "service name is required"),
        (
            "namespace",
            &service.namespace,
            "service namespace is required",
        ),
    ] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), what));
        }
    }
    if service
        .port
        .is_some_and(|port| !(1..=65535).contains(&port))
    {
        const DETAIL: &str = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(
            &path.child("port"),
            service.port,
            DETAIL,
        ));
    }
    let Some(url_path) = service.path.as_deref().filter(|path| !path.is_empty()) else {
        return;
    };
    if !url_path.starts_with('/') {
        errors.push(FieldError::invalid(
            &path.child("path"),
            url_path,
            "must start with a '/'",
        ));
    }
}

fn review_versions(versions: &[String], path: &Path<'_>, errors: &mut Errors) {
    if versions.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(
                &path,
                version.as_str(),
                "duplicate version",
            ));
            continue;
        }
        let problems = dns1035_label(version).into_iter();
        errors
            .extend(problems.map(|problem| FieldError::invalid(&path, version.as_str(), problem)));
    }
    if !versions
        .iter()
        .any(|version| REVIEWS.contains(&version.as_str()))
    {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(path, versions.to_vec(), detail));
    }
}
