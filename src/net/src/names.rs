//! Names: what a cluster's DNS server would answer, without a server.
//!
//! Services are `NAME.NAMESPACE.svc.DOMAIN`, their pods `HOSTNAME.NAME.NAMESPACE.svc.DOMAIN`, as specified by
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    PodNetwork, ResolveError,
    dns::client,
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
    /// Who is asked for names.
    pub lookups: Lookups,
    /// Suffixes to try, at most 32. None: those of the cluster (`NAMESPACE.svc.DOMAIN`, `svc.DOMAIN` and `DOMAIN`) if it is
    /// asked, else none.
    pub searches: Option<Vec<String>>,
    /// A name with at least so many dots is tried as it is before the suffixes. Default: 5 if the cluster is asked, as in
    /// the `resolv.conf` of every cluster, else 1.
    pub ndots: Option<usize>,
    /// Further entries of the pod's hosts file.
    pub hosts: Vec<(String, IpAddr)>,
}

/// Who is asked for names, the pod's own and its hosts file's aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lookups {
    /// The cluster, and for names of others the host's resolver, if the fabric may reach the outside.
    #[default]
    Cluster,
    /// The host's resolver alone, if the fabric may reach the outside.
    Host,
    /// These DNS servers, the first three of them, by the pod's own network: the next one if one does not answer within
    /// two seconds.
    Servers(Vec<IpAddr>),
}

impl Lookups {
    fn ndots(&self) -> usize {
        match self {
            Self::Cluster => 5,
            Self::Host | Self::Servers(_) => 1,
        }
    }
}

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
    network: &PodNetwork,
    name: &str,
    may_ask_outside: bool,
) -> Result<Vec<IpAddr>, ResolveError> {
    let (pod, own) = (network.identity(), network.ip());
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
    let suffixes = suffixes(fabric, pod);
    let ndots = pod.ndots.unwrap_or_else(|| pod.lookups.ndots());
    let mut candidates = candidates(bare, absolute, &suffixes, ndots);
    let hit = match &pod.lookups {
        Lookups::Servers(servers) => return client::lookup(network, servers, candidates).await,
        Lookups::Host if !may_ask_outside => None,
        Lookups::Host => return ask_host(fabric, candidates).await,
        Lookups::Cluster => candidates.find_map(|name| hit(fabric, &name)),
    };
    let outside = match hit {
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

fn suffixes<'a>(fabric: &Inner, pod: &'a PodIdentity) -> Cow<'a, [String]> {
    match (&pod.searches, &pod.lookups) {
        (Some(searches), _) => Cow::Borrowed(searches),
        (None, Lookups::Host | Lookups::Servers(_)) => Cow::Borrowed(&[]),
        (None, Lookups::Cluster) => {
            let domain = &fabric.config.cluster_domain;
            Cow::Owned(vec![
                format!("{}.svc.{domain}", pod.namespace),
                format!("svc.{domain}"),
                domain.clone(),
            ])
        }
    }
}

/// The full names that a name may stand for, in the order in which they are tried.
fn candidates<'a>(
    name: &'a str,
    absolute: bool,
    suffixes: &'a [String],
    ndots: usize,
) -> impl Iterator<Item = String> + 'a {
    let as_it_is_first = absolute || name.bytes().filter(|&byte| byte == b'.').count() >= ndots;
    let suffixes = if absolute { &[] } else { suffixes };
    let extended = suffixes.iter().take(MAX_SEARCHES);
    let extended = extended.map(move |suffix| format!("{name}.{}", suffix.trim_matches('.')));
    let own = |now: bool| now.then(|| name.to_owned()).into_iter();
    own(as_it_is_first)
        .chain(extended)
        .chain(own(!as_it_is_first))
}

/// The first of these names that the host's resolver knows.
async fn ask_host(
    fabric: &Inner,
    names: impl Iterator<Item = String>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut last = ResolveError::NotFound(String::new());
    for name in names {
        match fabric.resolve_outside(&name).await {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
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
