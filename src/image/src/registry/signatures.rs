//! Signatures of images, from the registry that has the image.

use std::time::SystemTime;

use oci_distribution::secrets::RegistryAuth;
use serde::Deserialize;

use super::{
    Registries, TransferError, document,
    endpoint::Endpoint,
    http::{ReadError, Repository},
    small, with_causes,
};
use crate::{
    Credential, Digest, Image, Reference,
    layout::{Descriptor, MAX_DOCUMENT, Manifest},
    media,
    signature::{self, Evidence, SignatureError, Signer},
};

/// How many signatures of one image are looked at.
const MOST: usize = 32;

/// Which images refer to another one.
#[derive(Deserialize)]
struct Referrers {
    manifests: Vec<Referrer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    artifact_type: Option<String>,
}

impl Registries {
    /// Makes sure that one of `signers` has signed an image of the store. The image's registry is asked, as for a
    /// [pull](Self::pull), for signatures of the manifest and, if it was chosen from an index, of the index.
    pub async fn verify(
        &self,
        image: &Image,
        credentials: &[Credential],
        signers: &[Signer],
    ) -> Result<(), SignatureError> {
        let reference: Reference = image.reference.parse().map_err(TransferError::from)?;
        let digests: Vec<&Digest> = [&image.digest].into_iter().chain(&image.index).collect();
        let nobody = [Credential::anonymous()];
        let (mut refused, mut failed, mut asked) = (None, None, false);
        for endpoint in Endpoint::of(&self.config, &reference) {
            for credential in credentials.iter().chain(&nobody) {
                let gathered = self.gather(&endpoint, &reference, &credential.0, &digests);
                let evidence = match gathered.await {
                    Ok(evidence) => evidence,
                    Err(error) => {
                        let access = error.is_about_access();
                        failed = failed.or(Some(error));
                        if access {
                            continue;
                        }
                        break;
                    }
                };
                asked = true;
                for evidence in evidence {
                    match signature::check(&evidence, &digests, signers, SystemTime::now()) {
                        Ok(()) => return Ok(()),
                        Err(reason) => refused = Some(reason),
                    }
                }
                break;
            }
        }
        let reference = image.reference.clone();
        match (refused, failed) {
            (Some(reason), _) => Err(SignatureError::Refused { reference, reason }),
            (None, Some(error)) if !asked => Err(error.into()),
            (None, _) => Err(SignatureError::Unsigned { reference }),
        }
    }

    /// All signatures of these manifests at an endpoint.
    async fn gather(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        auth: &RegistryAuth,
        digests: &[&Digest],
    ) -> Result<Vec<Evidence>, TransferError> {
        let repository = endpoint.open(&self.config, reference, auth).await?;
        let place = Place {
            repository,
            reference,
        };
        let mut evidence = Vec::new();
        for digest in digests {
            place.simple(digest, &mut evidence).await?;
            place.bundles(digest, &mut evidence).await?;
        }
        evidence.truncate(MOST);
        Ok(evidence)
    }
}

/// Where signatures are looked for.
struct Place<'p> {
    repository: Repository,
    reference: &'p Reference,
}

impl Place<'_> {
    /// Under cosign's tag.
    async fn simple(&self, digest: &Digest, to: &mut Vec<Evidence>) -> Result<(), TransferError> {
        let tag = format!("sha256-{}.sig", digest.hex());
        let Some(manifest) = self.manifest(&tag).await? else {
            return Ok(());
        };
        let layers = manifest.layers.iter();
        let layers = layers.filter(|layer| layer.media_type == signature::PAYLOAD_TYPE);
        for layer in layers.take(MOST) {
            let payload = self.blob(layer).await?;
            to.extend(signature::simple_signing(layer, payload));
        }
        Ok(())
    }

    /// Bundles that refer to the image: by the registry's own list, or by the list that clients keep where it has none.
    async fn bundles(&self, digest: &Digest, to: &mut Vec<Evidence>) -> Result<(), TransferError> {
        let listed = match self.repository.referrers(digest, MAX_DOCUMENT).await {
            Err(ReadError::NotFound) => {
                let tag = format!("sha256-{}", digest.hex());
                let types = [media::INDEXES[0]];
                self.repository.manifest(&tag, &types, MAX_DOCUMENT).await
            }
            listed => listed,
        };
        let index = match listed {
            Ok(index) => index,
            // Not every registry knows what is asked.
            Err(error) => {
                tracing::debug!(error = with_causes(&error), "no list of referrers");
                return Ok(());
            }
        };
        let Ok(index) = serde_json::from_slice::<Referrers>(&index) else {
            return Ok(());
        };
        let is_bundle = |referrer: &&Referrer| {
            let kind = referrer.artifact_type.as_deref();
            // Those that clients list are not always said to be what they are.
            kind.is_none_or(|kind| signature::BUNDLE_TYPES.contains(&kind))
        };
        for referrer in index.manifests.iter().filter(is_bundle).take(MOST) {
            let Some(manifest) = self.manifest(&referrer.descriptor.digest).await? else {
                continue;
            };
            let layer = manifest
                .layers
                .iter()
                .find(|layer| signature::BUNDLE_TYPES.contains(&layer.media_type.as_str()));
            if let Some(layer) = layer {
                to.extend(signature::bundle(&self.blob(layer).await?));
            }
        }
        Ok(())
    }

    /// A manifest by tag or digest, if there is one that makes sense.
    async fn manifest(&self, name: &str) -> Result<Option<Manifest>, TransferError> {
        match document(&self.repository, name, self.reference).await {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small blob, compared with its digest.
    async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransferError> {
        small(self.reference, descriptor.size)?;
        let failed = |error| TransferError::of(self.reference, error);
        let blob = self.repository.blob(&descriptor.digest, 0).await;
        let mut blob = blob.map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = blob.next().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > descriptor.size {
                break;
            }
        }
        if Digest::of(&bytes) == descriptor.digest {
            return Ok(bytes);
        }
        Err(TransferError::Content {
            reference: self.reference.to_string(),
            digest: descriptor.digest.clone(),
        })
    }
}
