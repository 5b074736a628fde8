//! The files by which the programs of a pod know names: `/etc/hosts` and `/etc/resolv.conf`.

use std::{fmt::Write as _, net::IpAddr};

use vaquita_net::Lookups;

use crate::SandboxConfig;

/// `/etc/hosts` of a pod that has an address, as upstream's kubelet writes it.
pub(crate) fn hosts_file(config: &SandboxConfig, ip: IpAddr) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    let short = config.hostname.split('.').next().unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = match &config.domain {
        Some(domain) => writeln!(text, "{ip}\t{short}.{domain}\t{short}"),
        None => writeln!(text, "{ip}\t{}", config.hostname),
    };
    add_aliases(&mut text, config);
    text
}

/// `/etc/hosts` of a pod that is in the machine's own network: the machine's, and what the manifest adds.
pub(crate) fn host_hosts_file(config: &SandboxConfig) -> String {
    let mut text = "# Kubernetes-managed hosts file (host network).\n".to_owned();
    text.push_str(&std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    add_aliases(&mut text, config);
    text
}

/// `/etc/resolv.conf` of containers whose lookups go by it: with the cluster's server, if its names are wanted; with the
/// machine's own otherwise.
pub(crate) fn native_resolv_conf(config: &SandboxConfig, dns: Option<IpAddr>) -> String {
    let own = || std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    match dns {
        Some(dns) if config.lookups == Lookups::Cluster && config.host_network.is_none() => {
            format!("nameserver {dns}\n{}", config.resolv_conf)
        }
        // The manifest says all of it.
        _ if config.resolv_conf.contains("nameserver ") => config.resolv_conf.clone(),
        _ => own(),
    }
}

fn add_aliases(text: &mut String, config: &SandboxConfig) {
    if !config.hosts.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    let mut aliases = config.hosts.iter().peekable();
    while let Some((host, ip)) = aliases.next() {
        let _ = write!(text, "{ip}\t{host}");
        while let Some((host, _)) = aliases.next_if(|(_, next)| next == ip) {
            let _ = write!(text, "\t{host}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 5));

    #[test]
    fn a_pod_is_in_its_own_hosts_file() {
        let mut config = SandboxConfig {
            hostname: "web-0".to_owned(),
            ..SandboxConfig::default()
        };
        let hosts = hosts_file(&config, IP);
        assert!(hosts.ends_with("10.244.0.5\tweb-0\n"), "{hosts}");
        config.domain = Some("web.ns.svc.cluster.local".to_owned());
        config.hostname = "web-0.web.ns.svc.cluster.local".to_owned();
        let hosts = hosts_file(&config, IP);
        assert!(
            hosts.ends_with("10.244.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n"),
            "{hosts}"
        );
    }

    #[test]
    fn aliases_share_lines_by_address() {
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let alias = |host: &str, ip| (host.to_owned(), ip);
        let config = SandboxConfig {
            hosts: vec![alias("a", one), alias("b", one), alias("c", two)],
            ..SandboxConfig::default()
        };
        let hosts = hosts_file(&config, IP);
        assert!(
            hosts.ends_with("# Entries added by HostAliases.\n192.0.2.1\ta\tb\n192.0.2.2\tc\n"),
            "{hosts}"
        );
    }
}
