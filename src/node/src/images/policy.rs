//! `ImagePolicy`: whose signature the images of a namespace's pods must have.
//!
//! An image that no policy names needs none; one that several name needs one for each. The policies are read, and signatures
//! checked, when a container gets its image, whether that is pulled or in the store. What was found right is remembered as long
//! as the node runs and the policy says the same.

use std::sync::LazyLock;

use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde::{Deserialize, Serialize};
use vaquita_image::{Identity, IdentityConfig, PublicKey, Reference, Signer, SignerError};

/// The most policies that are looked at for an image.
const MOST: u32 = 100;

static RESOURCE: LazyLock<ApiResource> = LazyLock::new(|| {
    let kind = GroupVersionKind::gvk("vaquita.dev", "v1alpha1", "ImagePolicy");
    ApiResource::from_gvk_with_plural(&kind, "imagepolicies")
});

/// `spec` of a policy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    images: Vec<String>,
    keys: Vec<String>,
    identities: Vec<IdentitySpec>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IdentitySpec {
    subject: String,
    issuer: String,
    authorities: String,
    transparency_log_key: Option<String>,
}

/// What one policy wants of an image.
#[derive(Debug)]
pub(crate) struct Requirement {
    pub(crate) policy: String,
    /// Tells it from any other requirement.
    pub(crate) fingerprint: String,
    /// Whose signature suffices; or why the policy cannot be read, which refuses all images that it is for.
    pub(crate) signers: Result<Vec<Signer>, SignerError>,
}

/// What the policies of a namespace want of an image.
pub(crate) async fn requirements(
    client: &Client,
    namespace: &str,
    image: &str,
) -> Result<Vec<Requirement>, kube::Error> {
    let policies: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &*RESOURCE);
    let found = match policies.list(&ListParams::default().limit(MOST)).await {
        Ok(found) => found,
        // The cluster does not have the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wanted = found.iter().filter_map(|policy| requirement(policy, image));
    Ok(wanted.collect())
}

/// What a policy wants of an image, if it names it. One that makes no sense names all, and nobody.
fn requirement(policy: &DynamicObject, image: &str) -> Option<Requirement> {
    let spec: Option<Spec> = serde_json::from_value(policy.data["spec"].clone()).ok();
    if let Some(spec) = &spec
        && !spec.images.iter().any(|pattern| names(pattern, image))
    {
        return None;
    }
    let spec = spec.unwrap_or_default();
    Some(Requirement {
        policy: policy.name_any(),
        fingerprint: serde_json::to_string(&spec).unwrap_or_default(),
        signers: signers(&spec),
    })
}

fn signers(spec: &Spec) -> Result<Vec<Signer>, SignerError> {
    let keys = spec.keys.iter();
    let keys = keys.map(|pem| PublicKey::from_pem(pem.as_bytes()).map(Signer::Key));
    let identities = spec.identities.iter().map(|identity| {
        let config = IdentityConfig {
            authorities: identity.authorities.clone().into_bytes(),
            subject: identity.subject.clone(),
            issuer: identity.issuer.clone(),
            log_key: identity
                .transparency_log_key
                .clone()
                .map(String::into_bytes),
        };
        Identity::new(&config).map(|identity| Signer::Identity(Box::new(identity)))
    });
    keys.chain(identities).collect()
}

/// Whether a pattern names an image: its full name with or without tag, or the beginning of it followed by `*`.
fn names(pattern: &str, image: &str) -> bool {
    let Ok(reference) = image.parse::<Reference>() else {
        return false;
    };
    let (whole, repository) = (reference.to_string(), reference.name());
    match pattern.strip_suffix('*') {
        Some(start) => whole.starts_with(start),
        None => pattern == whole || pattern == repository,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn of(spec: &serde_json::Value, image: &str) -> Option<Requirement> {
        let policy = json!({"metadata": {"name": "ours"}, "spec": spec});
        requirement(&serde_json::from_value(policy).unwrap(), image)
    }

    #[test]
    fn images_are_named_whole_or_by_their_beginning() {
        for (pattern, image, is) in [
            (
                "registry.example/team/*",
                "registry.example/team/app:v1",
                true,
            ),
            (
                "registry.example/team/*",
                "registry.example/teams:v1",
                false,
            ),
            ("registry.example/app", "registry.example/app:v2", true),
            ("registry.example/app:v1", "registry.example/app:v1", true),
            ("registry.example/app:v1", "registry.example/app:v2", false),
            // By what a short name stands for.
            ("docker.io/*", "hello", true),
            ("hello", "hello", false),
            ("*", "anything", true),
            ("*", "Not A Name", false),
        ] {
            assert_eq!(names(pattern, image), is, "{pattern} {image}");
        }
    }

    #[test]
    fn what_cannot_be_read_refuses_instead_of_letting_pass() {
        let read = of(&json!({"images": ["*"], "keys": [KEY]}), "a").unwrap();
        assert_eq!(read.signers.unwrap().len(), 1);
        assert!(of(&json!({"images": ["b/*"], "keys": [KEY]}), "a").is_none());
        for spec in [
            json!({"images": ["*"], "keys": ["no key"]}),
            json!({"images": ["*"], "identities": [{"subject": "*", "issuer": "i", "authorities": ""}]}),
        ] {
            assert!(of(&spec, "a").unwrap().signers.is_err());
        }
        let broken = of(&json!({"images": 1}), "a").unwrap();
        assert!(broken.signers.unwrap().is_empty(), "nobody may sign");
    }
}
