//! Requests and certificates as they travel: DER in PEM.

use std::io::Cursor;

use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::{PEMError, X509Error};
use x509_parser::nom;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// Why a request for a certificate can't be signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Label,
    #[error("asn1: structure error: {0}")]
    Parse(#[source] nom::Err<X509Error>),
    #[error("x509: trailing data after certificate request")]
    Trailing,
    #[error("x509: cannot verify signature: {0}")]
    Signature(#[source] X509Error),
}

/// Why something is no certificate, or no chain of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("must contain at least one CERTIFICATE PEM block")]
    None,
    #[error("only CERTIFICATE PEM blocks are allowed, found {0:?}")]
    Label(String),
    #[error("{0}")]
    Pem(#[source] PEMError),
    #[error("x509: malformed certificate: {0}")]
    Parse(#[source] nom::Err<X509Error>),
    #[error("found CERTIFICATE PEM block containing 0 certificates")]
    Empty,
}

/// Checks that `bytes` are a request in PEM, signed by the key that it is for.
pub(super) fn check_request(bytes: &[u8]) -> Result<(), RequestError> {
    let (block, _) = Pem::read(Cursor::new(bytes)).map_err(|_| RequestError::Label)?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(RequestError::Label);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(RequestError::Parse)?;
    if !rest.is_empty() {
        return Err(RequestError::Trailing);
    }
    request.verify_signature().map_err(RequestError::Signature)
}

/// Checks that `bytes` are nothing, or certificates in PEM.
pub(super) fn check_certificates(bytes: &[u8]) -> Result<(), CertificateError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(bytes) {
        let block = match block {
            Ok(block) => block,
            // Only other text is left.
            Err(PEMError::MissingHeader) => break,
            Err(error) => return Err(CertificateError::Pem(error)),
        };
        blocks += 1;
        if block.label != "CERTIFICATE" {
            return Err(CertificateError::Label(block.label));
        }
        if block.contents.is_empty() {
            return Err(CertificateError::Empty);
        }
        let mut left = block.contents.as_slice();
        while !left.is_empty() {
            let (rest, _) = X509Certificate::from_der(left).map_err(CertificateError::Parse)?;
            left = rest;
        }
    }
    if blocks == 0 {
        return Err(CertificateError::None);
    }
    Ok(())
}
