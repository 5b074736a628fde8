//! Who we are to a registry: what pull secrets and Docker's configuration say.
//!
//! A set of credentials is asked for an image and gives all that fit, the most specific first; the rule of what fits is the
//! kubelet's: the host must match (labels of it may have `*`), and what the entry has as a path must begin the image's.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_distribution::secrets::RegistryAuth;
use serde::Deserialize;

use crate::Reference;

/// The largest configuration that is read, in bytes; that of a Secret can't be larger.
const MAX_CONFIG: u64 = 1 << 20;
/// What Docker calls its registry in configurations.
const DOCKER_HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];

/// What programs that keep credentials say where they have none.
const NOT_FOUND: &str = "credentials not found";

/// A name and a password, or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(pub(crate) RegistryAuth);

impl Credential {
    /// A name and a password.
    pub fn password(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self(RegistryAuth::Basic(name.into(), password.into()))
    }

    /// The name and the password, if it is these.
    pub fn as_password(&self) -> Option<(&str, &str)> {
        match &self.0 {
            RegistryAuth::Basic(name, password) => Some((name, password)),
            _ => None,
        }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self(RegistryAuth::Anonymous)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The type inside leaves secrets out.
        self.0.fmt(f)
    }
}

/// What is known of who we are, registry by registry.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Host and path, as they were written without scheme; the longest first.
    entries: Vec<(String, Credential)>,
}

/// A configuration that can't be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// It is no JSON of the right form.
    #[error("the registry credentials are no Docker configuration")]
    Form(#[from] serde_json::Error),
    /// An entry's `auth` is no name and password in base64.
    #[error("the credential for {registry} is no name and password")]
    Auth {
        /// Of which registry.
        registry: String,
    },
    /// A program that keeps credentials gave none.
    #[error("no credential for {registry}: {reason}")]
    Helper {
        /// For which registry.
        registry: String,
        /// What it said.
        reason: String,
    },
}

/// `config.json` of Docker, `.dockerconfigjson` of Secrets.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl Credentials {
    /// Reads the data of a Secret of type `kubernetes.io/dockerconfigjson`.
    pub fn from_docker_config(json: &[u8]) -> Result<Self, CredentialsError> {
        let config: DockerConfig = serde_json::from_slice(json)?;
        Self::of(config.auths)
    }

    /// Reads the data of a Secret of type `kubernetes.io/dockercfg`, which is the inner part alone.
    pub fn from_docker_cfg(json: &[u8]) -> Result<Self, CredentialsError> {
        Self::of(serde_json::from_slice(json)?)
    }

    fn of(auths: BTreeMap<String, Entry>) -> Result<Self, CredentialsError> {
        let mut all = Self::default();
        for (registry, entry) in auths {
            let wrong = || CredentialsError::Auth {
                registry: registry.clone(),
            };
            let credential = if !entry.identity_token.is_empty() {
                Credential(RegistryAuth::Bearer(entry.identity_token))
            } else if entry.username.is_empty() && !entry.auth.is_empty() {
                let decoded = STANDARD.decode(entry.auth.trim()).map_err(|_| wrong())?;
                let text = String::from_utf8(decoded).map_err(|_| wrong())?;
                let (name, password) = text.split_once(':').ok_or_else(wrong)?;
                Credential::password(name, password)
            } else if entry.username.is_empty() {
                continue;
            } else {
                Credential::password(entry.username, entry.password)
            };
            all.add(&registry, credential);
        }
        Ok(all)
    }

    /// Adds a credential for a registry, or for what is below a path of it: `HOST[:PORT][/PATH]`.
    pub fn add(&mut self, registry: &str, credential: Credential) {
        let place = registry
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_end_matches('/');
        // Docker wrote its own registry with the version of its protocol.
        let place = place.strip_suffix("/v1").unwrap_or(place);
        let place = place.strip_suffix("/v2").unwrap_or(place);
        self.entries.push((place.to_owned(), credential));
        self.entries
            .sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
    }

    /// Adds all of another set, behind those that are as specific.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.entries
            .sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
    }

    /// What fits an image, the most specific first.
    pub fn of_image(&self, image: &Reference) -> Vec<Credential> {
        let name = image.name();
        let (host, path) = name.split_once('/').unwrap_or((&name, ""));
        let fits = |place: &str| {
            let (at, below) = place.split_once('/').unwrap_or((place, ""));
            let same =
                host_matches(at, host) || DOCKER_HUB.contains(&at) && DOCKER_HUB.contains(&host);
            same && (below.is_empty() || path.starts_with(below))
        };
        let fitting = self.entries.iter().filter(|(place, _)| fits(place));
        fitting.map(|(_, credential)| credential.clone()).collect()
    }

    /// What the user's own Docker configuration says about an image: its entries, or the program that it names to ask.
    /// None without a configuration. Reads files and may run a program: not for an asynchronous context.
    pub fn from_home(image: &Reference) -> Result<Option<Credential>, CredentialsError> {
        let Some(path) = docker_config() else {
            return Ok(None);
        };
        Self::from_file(&path, image)
    }

    fn from_file(path: &Path, image: &Reference) -> Result<Option<Credential>, CredentialsError> {
        let Ok(file) = File::open(path) else {
            return Ok(None);
        };
        let name = image.name();
        let host = name.split('/').next().unwrap_or_default();
        let server = if DOCKER_HUB.contains(&host) {
            "https://index.docker.io/v1/"
        } else {
            host
        };
        let mut config = Vec::new();
        let read = file.take(MAX_CONFIG).read_to_end(&mut config);
        let of_all = read.ok().and_then(|_| keeper_of_all(&config, server));
        if let Some(config) = of_all
            && let Some(found) = ask(&config, server, host)?
        {
            return Ok(Some(found));
        }
        ask(&config, server, host)
    }
}

/// The configuration with the program that keeps all credentials (`credsStore`) as the one that keeps those of this server, if there
/// is one and nobody else does.
fn keeper_of_all(config: &[u8], server: &str) -> Option<Vec<u8>> {
    let mut config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let keeper = config["credsStore"].as_str()?.to_owned();
    let special = config["credHelpers"][server].as_str();
    if keeper.is_empty() || special.is_some_and(|program| !program.is_empty()) {
        return None;
    }
    config["credHelpers"] = serde_json::json!({server: keeper});
    serde_json::to_vec(&config).ok()
}

/// What a configuration says about a server.
fn ask(config: &[u8], server: &str, host: &str) -> Result<Option<Credential>, CredentialsError> {
    match docker_credential::get_credential_from_reader(config, server) {
        Ok(DockerCredential::UsernamePassword(name, password)) => {
            Ok(Some(Credential::password(name, password)))
        }
        Ok(DockerCredential::IdentityToken(token)) => {
            Ok(Some(Credential(RegistryAuth::Bearer(token))))
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // A program that has none says so, and fails.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains(NOT_FOUND) =>
        {
            Ok(None)
        }
        Err(error) => Err(CredentialsError::Helper {
            registry: host.to_owned(),
            reason: in_a_line(&error),
        }),
    }
}

/// What went wrong, without whatever else a program may have printed.
fn in_a_line(error: &CredentialRetrievalError) -> String {
    let CredentialRetrievalError::HelperFailure { helper, stdout, .. } = error else {
        return error.to_string();
    };
    let said = stdout.lines().next().unwrap_or_default();
    let said: String = said.chars().take(200).collect();
    format!("{helper} failed: {said}")
}

/// Where Docker keeps its configuration: `$DOCKER_CONFIG`, or `~/.docker`.
fn docker_config() -> Option<PathBuf> {
    let own = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    own.or_else(home).map(|dir| dir.join("config.json"))
}

/// Whether a host is meant by a pattern: label by label, where a label may have `*` for any part of it. Ports must be the
/// same.
fn host_matches(pattern: &str, host: &str) -> bool {
    let split = |text: &str| {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        (name.to_owned(), port.to_owned())
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let (wanted, given): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && wanted.len() == given.len()
        && wanted
            .iter()
            .zip(given)
            .all(|(wanted, given)| label_matches(wanted, given))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(label) = label.strip_prefix(head) else {
        return false;
    };
    // Each further part where it comes first, the last one at the end.
    let mut label = label;
    let parts: Vec<&str> = rest.split('*').collect();
    for (at, part) in parts.iter().enumerate() {
        if at + 1 == parts.len() {
            return label.ends_with(part);
        }
        match label.find(part) {
            Some(found) => label = &label[found + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(credentials: &Credentials, image: &str) -> Vec<String> {
        let found = credentials.of_image(&image.parse().unwrap());
        let name = |credential: Credential| match credential.0 {
            RegistryAuth::Basic(name, _) => name,
            other => format!("{other:?}"),
        };
        found.into_iter().map(name).collect()
    }

    #[test]
    fn the_most_specific_entry_that_fits_comes_first() {
        let auth = STANDARD.encode("coded:p:w");
        let json = format!(
            r#"{{"auths": {{
                "registry.example": {{"username": "all", "password": "p"}},
                "https://registry.example/team": {{"auth": "{auth}"}},
                "*.cloud.example": {{"username": "cloud", "password": "p"}},
                "https://index.docker.io/v1/": {{"username": "hub", "password": "p"}},
                "empty.example": {{}}
            }}}}"#
        );
        let credentials = Credentials::from_docker_config(json.as_bytes()).unwrap();
        assert_eq!(
            names(&credentials, "registry.example/team/app"),
            ["coded", "all"]
        );
        assert_eq!(names(&credentials, "registry.example/other"), ["all"]);
        assert_eq!(names(&credentials, "eu.cloud.example/app"), ["cloud"]);
        assert_eq!(names(&credentials, "hello"), ["hub"]);
        for other in [
            "registry.example:5000/app",
            "a.b.cloud.example/app",
            "empty.example/app",
        ] {
            assert!(names(&credentials, other).is_empty(), "{other}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_registry() {
        let json = br#"{"auths": {"registry.example": {"auth": "!!"}}}"#;
        let error = Credentials::from_docker_config(json).unwrap_err();
        assert!(error.to_string().contains("registry.example"));
        assert!(Credentials::from_docker_config(b"5").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Credential::password("name", "secret"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn stars_stand_for_parts_of_labels() {
        for (pattern, label, matches) in [
            ("*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*b*", "abc", true),
            ("a*b*d", "axbxd", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(label_matches(pattern, label), matches, "{pattern} {label}");
        }
    }
}
