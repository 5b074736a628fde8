//! Content negotiation: which form and encoding of an answer a client accepts, and what a request body is written in.
//!
//! Forms are the parameters `as`, `g` and `v` of `application/json` (Kubernetes' server-side tables and metadata-only
//! objects, and aggregated discovery). CBOR is not spoken: where a client prefers it but takes JSON too, it gets JSON.

use http::{HeaderMap, HeaderValue, header};
use vaquita_api::protobuf;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// Kubernetes' own envelope around protobuf. What has no form in it is answered in JSON.
    Protobuf,
}

impl Encoding {
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        })
    }
}

/// In which shape objects are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` (or `v1beta1`) `Table`, what `kubectl get` prints.
    Table { beta: bool },
    /// `PartialObjectMetadata`, alone or as a list.
    Metadata { beta: bool },
}

/// What the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
}

impl Accepted {
    /// What a client gets that has no wishes.
    pub(crate) const PLAIN: Self = Self {
        form: Form::Object,
        encoding: Encoding::Json,
    };
}

/// None of what the client accepts can be produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAcceptable;

/// The media types that answers can be written in, for error messages.
pub(crate) const PRODUCED: [&str; 3] =
    ["application/json", "application/yaml", protobuf::MEDIA_TYPE];
/// The media types that bodies may be written in, for error messages.
pub(crate) const CONSUMED: [&str; 3] =
    ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// One range of an `Accept` header.
struct MediaRange<'a> {
    kind: &'a str,
    form: Option<&'a str>,
    group: &'a str,
    version: &'a str,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let mut range = Self {
            kind,
            form: None,
            group: "",
            version: "",
            quality: 1.0,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim() {
                "as" => range.form = Some(value.trim()),
                "g" => range.group = value.trim(),
                "v" => range.version = value.trim(),
                "q" => range.quality = value.trim().parse().unwrap_or(0.0),
                _ => {}
            }
        }
        range
    }

    fn encoding(&self) -> Option<Encoding> {
        match self.kind {
            "application/json" | "application/*" | "*/*" => Some(Encoding::Json),
            "application/yaml" => Some(Encoding::Yaml),
            _ => None,
        }
    }

    fn object_form(&self) -> Option<Form> {
        let beta = match (self.group, self.version) {
            (_, _) if self.form.is_none() => return Some(Form::Object),
            ("meta.k8s.io", "v1") => false,
            ("meta.k8s.io", "v1beta1") => true,
            _ => return None,
        };
        match self.form? {
            "Table" => Some(Form::Table { beta }),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata { beta }),
            _ => None,
        }
    }
}

/// The ranges of all `Accept` headers, most wanted first. Empty if there is none.
fn accept_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut ranges: Vec<_> = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .map(MediaRange::parse)
        .filter(|range| range.quality > 0.0)
        .collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

/// The form and encoding of objects for a client with these headers, where there is no protobuf.
pub(crate) fn objects(headers: &HeaderMap) -> Result<Accepted, NotAcceptable> {
    negotiate(headers, false)
}

/// The same where there is: for objects of built-in kinds.
pub(crate) fn objects_or_protobuf(headers: &HeaderMap) -> Result<Accepted, NotAcceptable> {
    negotiate(headers, true)
}

fn negotiate(headers: &HeaderMap, protobuf: bool) -> Result<Accepted, NotAcceptable> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Accepted::PLAIN);
    }
    accept_ranges(headers)
        .iter()
        .find_map(|range| {
            let form = range.object_form()?;
            // The cells of a table can be anything, for which protobuf has no word.
            let spoken = protobuf && !matches!(form, Form::Table { .. });
            let encoding = match range.kind {
                protobuf::MEDIA_TYPE if spoken => Encoding::Protobuf,
                _ => range.encoding()?,
            };
            Some(Accepted { form, encoding })
        })
        .ok_or(NotAcceptable)
}

/// Whether the client unpacks gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0")
        })
}

/// The encoding of an answer that has one form only. Without a usable `Accept`, JSON.
pub(crate) fn encoding(headers: &HeaderMap) -> Encoding {
    accept_ranges(headers)
        .iter()
        .find_map(MediaRange::encoding)
        .unwrap_or(Encoding::Json)
}

/// Which of `kinds` the client would rather have; without a wish the first. `None` if it accepts none of them.
pub(crate) fn prefers(headers: &HeaderMap, kinds: &[&'static str]) -> Option<&'static str> {
    if !headers.contains_key(header::ACCEPT) {
        return kinds.first().copied();
    }
    accept_ranges(headers).iter().find_map(|range| {
        let fits = |kind: &&&'static str| {
            let (base, _) = kind.split_once('/').unwrap_or_default();
            range.kind == **kind
                || range.kind == "*/*"
                || range.kind.strip_suffix("/*") == Some(base)
        };
        kinds.iter().find(fits).copied()
    })
}

/// Which aggregated discovery document is wanted, if one is: the version of `apidiscovery.k8s.io`.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    for range in accept_ranges(headers) {
        match (range.kind, range.form, range.group, range.version) {
            ("application/json", Some("APIGroupDiscoveryList"), "apidiscovery.k8s.io", "v2") => {
                return Some("v2");
            }
            (
                "application/json",
                Some("APIGroupDiscoveryList"),
                "apidiscovery.k8s.io",
                "v2beta1",
            ) => {
                return Some("v2beta1");
            }
            ("application/json" | "application/*" | "*/*", None, ..) => return None,
            _ => {}
        }
    }
    None
}

/// What a request's body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Json,
    Yaml,
    JsonPatch,
    MergePatch,
    StrategicMergePatch,
    ApplyPatch,
    /// Kubernetes' own envelope around protobuf, which clients written in Go prefer.
    Protobuf,
    /// Anything else.
    Unknown,
}

impl BodyKind {
    /// From the `Content-Type` header; JSON if there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Self::Json;
        };
        let media_type = value
            .to_str()
            .unwrap_or("?")
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        match media_type.to_ascii_lowercase().as_str() {
            "" | "application/json" => Self::Json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Self::Yaml,
            "application/json-patch+json" => Self::JsonPatch,
            "application/merge-patch+json" => Self::MergePatch,
            "application/strategic-merge-patch+json" => Self::StrategicMergePatch,
            "application/apply-patch+yaml" => Self::ApplyPatch,
            protobuf::MEDIA_TYPE => Self::Protobuf,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    fn form(value: &'static str) -> Result<Form, NotAcceptable> {
        objects(&accept(value)).map(|accepted| accepted.form)
    }

    #[test]
    fn kubectl_get_is_answered_with_a_table() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Ok(Form::Table { beta: false }));
    }

    #[test]
    fn metadata_clients_and_unknown_forms() {
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                        application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(form(metadata), Ok(Form::Metadata { beta: false }));
        assert_eq!(
            form("application/json;as=Poem;g=meta.k8s.io;v=v1,application/json"),
            Ok(Form::Object)
        );
        assert_eq!(
            form("application/json;as=Poem;g=meta.k8s.io;v=v1"),
            Err(NotAcceptable)
        );
    }

    #[test]
    fn protobuf_falls_back_to_json_only_where_json_is_accepted() {
        assert_eq!(
            form("application/vnd.kubernetes.protobuf, */*"),
            Ok(Form::Object)
        );
        assert_eq!(
            form("application/vnd.kubernetes.protobuf"),
            Err(NotAcceptable)
        );
        assert_eq!(objects(&HeaderMap::new()).unwrap().encoding, Encoding::Json);
    }

    #[test]
    fn protobuf_is_answered_where_there_is_some() {
        let encoding = |value| {
            objects_or_protobuf(&accept(value)).map(|accepted| (accepted.form, accepted.encoding))
        };
        assert_eq!(
            encoding("application/vnd.kubernetes.protobuf,application/json"),
            Ok((Form::Object, Encoding::Protobuf))
        );
        assert_eq!(
            encoding("application/json,application/vnd.kubernetes.protobuf"),
            Ok((Form::Object, Encoding::Json))
        );
        let table =
            "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(encoding(table), Ok((Form::Object, Encoding::Json)));
    }

    #[test]
    fn quality_orders_and_zero_excludes() {
        let yaml = objects(&accept("application/json;q=0.5, application/yaml")).unwrap();
        assert_eq!(yaml.encoding, Encoding::Yaml);
        assert_eq!(form("application/json;q=0"), Err(NotAcceptable));
    }

    #[test]
    fn aggregated_discovery_is_chosen_as_kubectl_asks_for_it() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(&accept(kubectl)), Some("v2"));
        assert_eq!(aggregated_discovery(&accept("application/json")), None);
        assert_eq!(aggregated_discovery(&HeaderMap::new()), None);
    }

    #[test]
    fn body_kinds() {
        let of = |value| {
            BodyKind::of(&HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(of("application/json; charset=utf-8"), BodyKind::Json);
        assert_eq!(
            of("application/vnd.kubernetes.protobuf"),
            BodyKind::Protobuf
        );
        assert_eq!(of("application/cbor"), BodyKind::Unknown);
        assert_eq!(of("application/apply-patch+yaml"), BodyKind::ApplyPatch);
        assert_eq!(BodyKind::of(&HeaderMap::new()), BodyKind::Json);
    }
}
