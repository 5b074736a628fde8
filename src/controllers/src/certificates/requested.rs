//! What a request asks for, and whether a signer of the cluster's own may grant it: no request to anybody, no clock.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateSigningRequestParams, SanType};
use x509_parser::{
    certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer as _,
    x509::AttributeTypeAndValue,
};

/// What certificates of clients of the API are signed by.
pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// What certificates of kubelets as clients of the API are signed by.
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// What serving certificates of kubelets are signed by.
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// The group of nodes.
const NODES: &str = "system:nodes";
/// How the names of nodes' users begin.
const NODE_PREFIX: &str = "system:node:";

/// Why a request is not granted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("unable to parse csr {0:?}: {1}")]
    Unreadable(String, String),
    /// Readers of the certificate would not agree on who it is for.
    #[error("certificates with several common names are not issued")]
    ManyNames,
    #[error("subject organization is not system:nodes")]
    Organization,
    #[error("subject common name does not begin with system:node:")]
    CommonName,
    #[error("the requestor is not the node that the certificate is for")]
    Requestor,
    #[error("DNS subjectAltNames are not allowed")]
    Dns,
    #[error("IP subjectAltNames are not allowed")]
    Ip,
    #[error("Email subjectAltNames are not allowed")]
    Email,
    #[error("URI subjectAltNames are not allowed")]
    Uri,
    #[error("at least one DNS or IP subjectAltName is required")]
    NoAddress,
    #[error("usages did not match {0}")]
    Usages(&'static str),
}

/// A request that was read.
pub(super) struct Requested {
    pub(super) params: CertificateSigningRequestParams,
    pub(super) common_name: String,
    /// The subject as it was asked for, in DER: `params` has it as a map, which loses values.
    pub(super) subject: Vec<u8>,
    organizations: Vec<String>,
}

/// Reads the request in `object`, whose signature is checked on the way.
pub(super) fn read(object: &CertificateSigningRequest) -> Result<Requested, Unfit> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let unreadable = |why: String| Unfit::Unreadable(name.clone(), why);
    let bytes = &object.spec.request.0;
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    let params = CertificateSigningRequestParams::from_pem(text);
    let params = params.map_err(|error| unreadable(error.to_string()))?;
    let (_, block) = parse_x509_pem(bytes).map_err(|error| unreadable(error.to_string()))?;
    let (_, raw) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| unreadable(error.to_string()))?;
    let subject = raw.certification_request_info.subject;
    let texts = |attributes: &mut dyn Iterator<Item = &AttributeTypeAndValue>| {
        let texts = attributes.map(|attribute| attribute.as_str().map(str::to_owned));
        let texts: Result<Vec<String>, _> = texts.collect();
        texts.map_err(|error| unreadable(error.to_string()))
    };
    let mut names = texts(&mut subject.iter_common_name())?;
    if names.len() > 1 {
        return Err(Unfit::ManyNames);
    }
    Ok(Requested {
        common_name: names.pop().unwrap_or_default(),
        organizations: texts(&mut subject.iter_organization())?,
        subject: subject.as_raw().to_vec(),
        params,
    })
}

/// Whether the usages are `wanted`, with or without key encipherment.
fn usages(object: &CertificateSigningRequest, wanted: &'static str) -> Result<(), Unfit> {
    let mut asked: Vec<&str> = object
        .spec
        .usages
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    asked.sort_unstable();
    asked.dedup();
    asked.retain(|usage| *usage != "key encipherment");
    let mut all = ["digital signature", wanted];
    all.sort_unstable();
    let described = match wanted {
        "server auth" => {
            "[digital signature key encipherment server auth] or [digital signature server auth]"
        }
        _ => "[client auth digital signature key encipherment] or [client auth digital signature]",
    };
    (asked == all).then_some(()).ok_or(Unfit::Usages(described))
}

impl Requested {
    /// Whether this is a certificate for a kubelet as a client.
    pub(super) fn suits_kubelet_client(
        &self,
        object: &CertificateSigningRequest,
    ) -> Result<(), Unfit> {
        self.names_a_node()?;
        if let Some(name) = self.params.params.subject_alt_names.first() {
            return Err(match name {
                SanType::DnsName(_) => Unfit::Dns,
                SanType::IpAddress(_) => Unfit::Ip,
                SanType::Rfc822Name(_) => Unfit::Email,
                _ => Unfit::Uri,
            });
        }
        usages(object, "client auth")
    }

    fn suits_kubelet_serving(&self, object: &CertificateSigningRequest) -> Result<(), Unfit> {
        self.names_a_node()?;
        let names = &self.params.params.subject_alt_names;
        for name in names {
            match name {
                SanType::DnsName(_) | SanType::IpAddress(_) => {}
                SanType::Rfc822Name(_) => return Err(Unfit::Email),
                _ => return Err(Unfit::Uri),
            }
        }
        if names.is_empty() {
            return Err(Unfit::NoAddress);
        }
        if object.spec.username.as_deref() != Some(&self.common_name) {
            return Err(Unfit::Requestor);
        }
        usages(object, "server auth")
    }

    fn suits_client(object: &CertificateSigningRequest) -> Result<(), Unfit> {
        let allowed = ["digital signature", "key encipherment", "client auth"];
        let asked = object.spec.usages.as_deref().unwrap_or_default();
        let fits = asked.iter().all(|usage| allowed.contains(&usage.as_str()))
            && asked.iter().any(|usage| usage == "client auth");
        fits.then_some(()).ok_or(Unfit::Usages(
            "[client auth digital signature key encipherment]",
        ))
    }

    /// Whether the signer that the object names may sign it; `None` for signers that are not the cluster's own.
    pub(super) fn suits_signer(
        &self,
        object: &CertificateSigningRequest,
    ) -> Option<Result<(), Unfit>> {
        match object.spec.signer_name.as_str() {
            CLIENT => Some(Self::suits_client(object)),
            KUBELET_CLIENT => Some(self.suits_kubelet_client(object)),
            KUBELET_SERVING => Some(self.suits_kubelet_serving(object)),
            _ => None,
        }
    }

    fn names_a_node(&self) -> Result<(), Unfit> {
        if self.organizations != [NODES] {
            return Err(Unfit::Organization);
        }
        if !self.common_name.starts_with(NODE_PREFIX) {
            return Err(Unfit::CommonName);
        }
        Ok(())
    }
}
