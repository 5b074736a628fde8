//! Who may approve and sign requests for certificates, and which subject is nobody's to ask for.
//!
//! Permission to write a request's `approval` or `status` is not enough: approving and signing are permissions on the
//! signer that the request names, as verbs on `signers` of `certificates.k8s.io`.

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

use crate::{Cluster, Operation, Plugin, Request};

const GROUP: &str = "certificates.k8s.io";
/// The signer whose certificates say who a user is.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

fn is_about(request: &Request<'_>, operation: Operation, subresource: &str) -> bool {
    request.operation == operation
        && request.subresource == subresource
        && request.resource.group == GROUP
        && request.resource.plural == "certificatesigningrequests"
}

fn signer(object: &Object) -> &str {
    let name = meta::at(object, &["spec", "signerName"]).and_then(Value::as_str);
    name.unwrap_or_default()
}

/// Refuses unless the requester may do `verb` with the signer, or with all of its domain.
fn check(request: &Request<'_>, cluster: &dyn Cluster, verb: &str) -> Result<(), Status> {
    let signer = request.old.map(signer).unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let names = [signer.to_owned(), format!("{domain}/*")];
    let allowed = names
        .iter()
        .any(|name| cluster.allows(request.requester, verb, (GROUP, "signers", name)));
    if allowed {
        return Ok(());
    }
    Err(request.forbidden(format_args!(
        "user not permitted to {verb} requests with signerName {signer:?}"
    )))
}

/// Approving takes the permission to `approve`.
pub(crate) struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        is_about(request, Operation::Update, "approval")
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        check(request, cluster, "approve")
    }
}

/// Writing the certificate, or that there will be none, takes the permission to `sign`.
pub(crate) struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        is_about(request, Operation::Update, "status")
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &dyn Cluster,
    ) -> Result<(), Status> {
        let status = |object: Option<&Object>, field| {
            let value = object.and_then(|object| meta::at(object, &["status", field]));
            value.cloned().unwrap_or_default()
        };
        let new = request.object.as_deref();
        let same = |field| status(request.old, field) == status(new, field);
        if same("certificate") && same("conditions") {
            return Ok(());
        }
        check(request, cluster, "sign")
    }
}

/// Nobody gets a certificate that makes its bearer a member of the group that may do everything.
pub(crate) struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        is_about(request, Operation::Create, "")
    }

    async fn validate(&self, request: &mut Request<'_>, _: &dyn Cluster) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else {
            return Ok(());
        };
        let asked = meta::at(object, &["spec", "request"]).and_then(Value::as_str);
        let groups = asked.map(organizations).unwrap_or_default();
        if signer(object) == CLIENT_SIGNER && groups.iter().any(|group| group == MASTERS) {
            return Err(request.forbidden(format_args!(
                "use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
            )));
        }
        Ok(())
    }
}

/// The organizations of the subject of a request, which is PEM in Base64. What cannot be read has none: validation
/// refuses it.
fn organizations(request: &str) -> Vec<String> {
    let read = || {
        let pem = STANDARD.decode(request).ok()?;
        let (_, block) = parse_x509_pem(&pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let names = subject.iter_organization();
        Some(
            names
                .filter_map(|name| Some(name.as_str().ok()?.to_owned()))
                .collect(),
        )
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organizations_are_read_from_the_request() {
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, MASTERS);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(organizations(&STANDARD.encode(pem)), [MASTERS]);
        assert!(organizations("bm9uc2Vuc2U=").is_empty());
    }
}
