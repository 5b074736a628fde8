//! Names: what a cluster's DNS server would answer, without a server.
//!
//! Services are `NAME.NAMESPACE.svc.DOMAIN`, their pods `HOSTNAME.NAME.NAMESPACE.svc.DOMAIN`, as specified by
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    ResolveError,
    fabric::Inner,
    records::{self, Known, Record},
};

/// Whom a pod's network is for: names, and how to look up others. Everything may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's namespace; its Services are found by their bare names.
    pub namespace: String,
    /// The pod's name, for logs and policies.
    pub name: String,
    /// The hostname inside the pod, which resolves to the pod's address.
    pub hostname: String,
    /// The headless Service through which the pod has a name in the cluster.
    pub subdomain: Option<String>,
    /// Suffixes to try, in place of `NAMESPACE.svc.DOMAIN`, `svc.DOMAIN` and `DOMAIN`. At most 32 are used.
    pub searches: Option<Vec<String>>,
    /// Further entries of the pod's hosts file.
    pub hosts: Vec<(String, IpAddr)>,
}

/// A name with at least so many dots is tried as it is before the search path: the `ndots:5` of a cluster's
/// `resolv.conf`.
const NDOTS: usize = 5;
/// Most suffixes of a search path that are tried.
const MAX_SEARCHES: usize = 32;
/// Longest name, in bytes.
const MAX_NAME: usize = 253;

/// Whether this can be a DNS name: labels of 1 to 63 bytes without blanks, 253 in all, perhaps with a dot at the end.
pub(crate) fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic())
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

pub(crate) async fn resolve(
    fabric: &Inner,
    pod: &PodIdentity,
    own: IpAddr,
    name: &str,
    may_ask_outside: bool,
) -> Result<Vec<IpAddr>, ResolveError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    // Not even repeated in the error, if it is too long.
    if !is_name(name) {
        return Err(ResolveError::Invalid(name.chars().take(MAX_NAME).collect()));
    }
    let name = name.to_ascii_lowercase();
    let (bare, absolute) = match name.strip_suffix('.') {
        Some(bare) => (bare, true),
        None => (name.as_str(), false),
    };
    if let Some(found) = in_hosts(fabric, pod, own, bare) {
        return Ok(found);
    }
    let outside = match search(fabric, pod, bare, absolute) {
        Some(Hit::Addresses(found)) => return Ok(found),
        Some(Hit::Outside(alias)) => alias,
        None => bare.to_owned(),
    };
    if !may_ask_outside || is_within(&outside, &fabric.config.cluster_domain) {
        return Err(ResolveError::NotFound(bare.to_owned()));
    }
    fabric.resolve_outside(&outside).await
}

/// What the tables have for a name.
enum Hit {
    Addresses(Vec<IpAddr>),
    /// It is another word for this name, which is not the cluster's.
    Outside(String),
}

/// Aliases that are followed.
const MAX_ALIASES: usize = 8;

/// What the pod's `/etc/hosts` would say.
fn in_hosts(fabric: &Inner, pod: &PodIdentity, own: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
    if name == "localhost" || name.ends_with(".localhost") {
        return Some(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
    let listed: Vec<_> = pod
        .hosts
        .iter()
        .filter(|(host, _)| host.eq_ignore_ascii_case(name))
        .map(|&(_, ip)| ip)
        .collect();
    if !listed.is_empty() {
        return Some(listed);
    }
    if pod.hostname.is_empty() {
        return None;
    }
    let is_own = name.eq_ignore_ascii_case(&pod.hostname)
        || pod.subdomain.as_ref().is_some_and(|subdomain| {
            let domain = &fabric.config.cluster_domain;
            let full = format!(
                "{}.{subdomain}.{}.svc.{domain}",
                pod.hostname, pod.namespace
            );
            name.eq_ignore_ascii_case(&full)
        });
    is_own.then(|| vec![own])
}

fn search(fabric: &Inner, pod: &PodIdentity, name: &str, absolute: bool) -> Option<Hit> {
    let as_it_is = || hit(fabric, name);
    if absolute {
        return as_it_is();
    }
    let by_suffix = || {
        let domain = &fabric.config.cluster_domain;
        let usual;
        let suffixes: &[String] = if let Some(searches) = &pod.searches {
            searches
        } else {
            usual = [
                format!("{}.svc.{domain}", pod.namespace),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            &usual
        };
        suffixes
            .iter()
            .take(MAX_SEARCHES)
            .find_map(|suffix| hit(fabric, &format!("{name}.{suffix}")))
    };
    if name.bytes().filter(|&byte| byte == b'.').count() >= NDOTS {
        as_it_is().or_else(by_suffix)
    } else {
        by_suffix().or_else(as_it_is)
    }
}

/// The addresses of a full name of the cluster.
pub(crate) fn lookup(fabric: &Inner, name: &str) -> Option<Vec<IpAddr>> {
    match hit(fabric, name)? {
        Hit::Addresses(found) => Some(found),
        Hit::Outside(_) => None,
    }
}

/// What a full name leads to, if it is one of the cluster's and leads anywhere.
fn hit(fabric: &Inner, name: &str) -> Option<Hit> {
    let mut name = name.trim_end_matches('.').to_ascii_lowercase();
    for depth in 0..MAX_ALIASES {
        let records = match records::find(fabric, &name) {
            Known::Records(records) => records,
            Known::Foreign if depth > 0 => return Some(Hit::Outside(name)),
            Known::Foreign | Known::Nobody => return None,
        };
        if let Some(Record::Alias(target)) = records.first() {
            name = target.trim_end_matches('.').to_ascii_lowercase();
            continue;
        }
        let addresses = records.iter().filter_map(|record| match record {
            Record::Address(ip, _) => Some(*ip),
            _ => None,
        });
        let found: Vec<_> = addresses.collect();
        return (!found.is_empty()).then_some(Hit::Addresses(found));
    }
    None
}

fn is_within(name: &str, domain: &str) -> bool {
    let domain = domain.to_ascii_lowercase();
    name == domain
        || name
            .strip_suffix(&domain)
            .is_some_and(|rest| rest.ends_with('.'))
}
