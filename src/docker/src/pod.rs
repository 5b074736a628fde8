//! A pod on the engine: what holds its namespaces, and what runs in them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    models::{
        ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig,
        PortBinding, PortMap,
    },
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};

use crate::{
    container::{self, Container, Logged, StartError},
    engine::{Engine, EngineError},
    labels,
    output::Output,
    shim::{Settings, Survivor},
    spec::{ContainerSpec, HostPort, Network, PodSpec, Processes},
    volume,
};

pub use crate::container::exec::{ExecSpec, Execution};

/// What the namespaces' holder may use: it does nothing.
const PAUSE_SHARES: i64 = 2;
/// The kernel is to kill everything else before it: the pod ends with it.
const PAUSE_OOM_SCORE: i64 = -998;

/// A pod that has its namespaces.
#[derive(Debug)]
pub struct Pod {
    pub(crate) engine: Engine,
    pub(crate) settings: Arc<Settings>,
    pub(crate) spec: PodSpec,
    /// The container that holds the namespaces.
    pub(crate) id: String,
    ip: Option<Ipv4Addr>,
    /// What ran in it before the shim was opened.
    survivors: Vec<Survivor>,
    pub(crate) protection: Protection,
}

/// Whether the engine can protect containers from the kernel's OOM killer, as far as is known. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Protection(Arc<AtomicBool>);

impl Protection {
    fn is_given(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    fn give_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// A score, or the lowest one that can be had.
    pub(crate) fn score(&self, wanted: i64) -> i64 {
        if self.is_given() {
            wanted
        } else {
            wanted.max(0)
        }
    }
}

impl Pod {
    /// Makes the namespaces' holder and starts it.
    pub(crate) async fn make(
        engine: Engine,
        settings: Arc<Settings>,
        spec: PodSpec,
        protection: Protection,
    ) -> Result<Self, EngineError> {
        let wanted = match spec.network {
            Network::Bridge { wanted } => wanted.filter(|ip| settings.subnet.contains(*ip)),
            Network::Host => None,
        };
        volume::make(&engine, &settings, &spec).await?;
        let mut made = hold(&engine, &settings, &spec, wanted, &protection).await;
        if wanted.is_some() && made.is_err() {
            // Somebody else may have the address by now.
            made = hold(&engine, &settings, &spec, None, &protection).await;
        }
        if made.is_err() && protection.is_given() {
            // An engine that itself may not say such things to the kernel cannot say why either.
            let without = Protection::default();
            without.give_up();
            made = hold(&engine, &settings, &spec, wanted, &without).await;
            if made.is_ok() {
                tracing::warn!(
                    "the Docker engine may not protect containers from the kernel's OOM killer"
                );
                protection.give_up();
            }
        }
        let id = made?;
        Self::of(engine, settings, spec, id, Vec::new(), protection).await
    }

    /// The pod whose namespaces' holder runs.
    pub(crate) async fn of(
        engine: Engine,
        settings: Arc<Settings>,
        spec: PodSpec,
        id: String,
        survivors: Vec<Survivor>,
        protection: Protection,
    ) -> Result<Self, EngineError> {
        let ip = address(&engine, &settings, &id).await?;
        Ok(Self {
            engine,
            settings,
            spec,
            id,
            ip,
            survivors,
            protection,
        })
    }

    /// Its address on the shim's network; `None` on the machine's own.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip.map(IpAddr::V4)
    }

    /// A process of this machine that is in its namespaces; `None` if its engine is on another machine.
    pub async fn process(&self) -> Result<Option<u32>, EngineError> {
        let found = self.engine.docker.inspect_container(&self.id, None).await;
        let found = found.map_err(EngineError::of("looking for the pod's sandbox"))?;
        let pid = found.state.and_then(|state| state.pid);
        let pid = pid.and_then(|pid| u32::try_from(pid).ok());
        // A number alone says nothing: here, it may be somebody else's.
        Ok(pid.filter(|pid| *pid > 0 && is_of(*pid, &self.id)))
    }

    /// Where the machine's superuser finds a volume in memory, given a [process](Self::process) of the pod.
    pub fn memory_volume(&self, process: u32, name: &str) -> PathBuf {
        format!("/proc/{process}/root{}/{name}", volume::HELD).into()
    }

    /// What of it runs, or has run, from before the shim was opened.
    pub fn survivors(&self) -> &[Survivor] {
        &self.survivors
    }

    /// Starts a container: when this returns, it runs.
    pub async fn start(
        &self,
        spec: &ContainerSpec,
        output: Arc<dyn Output>,
    ) -> Result<Container, StartError> {
        container::start(self, spec, output).await
    }

    /// Starts what holds the namespaces again, if it has ended: with its engine, or by somebody's hand.
    pub async fn revive(&self) -> Result<(), EngineError> {
        let started = self.engine.docker.start_container(&self.id, None).await;
        match started.map_err(EngineError::of("starting the pod's sandbox again")) {
            // It runs.
            Err(error) if error.is_conflict() => Ok(()),
            other => other,
        }
    }

    /// Takes over a container that is there already. `tail` are the last lines of its output that the caller has: what comes
    /// after them is handed on. They should reach back some seconds; without any, all is handed on that the engine has kept.
    pub async fn adopt(
        &self,
        survivor: &Survivor,
        tail: Vec<Logged>,
        output: Arc<dyn Output>,
    ) -> Result<Container, EngineError> {
        container::adopt(self, survivor, tail, output).await
    }

    /// Ends and removes all of it.
    pub async fn remove(&self) -> Result<(), EngineError> {
        remove_all(&self.engine, &self.settings.owner, &self.spec.uid).await
    }
}

/// Whether a process of this machine is a container's.
pub(crate) fn is_of(pid: u32, container: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    groups.is_ok_and(|groups| groups.contains(container))
}

/// Removes everything of a pod, the containers first.
pub(crate) async fn remove_all(engine: &Engine, owner: &str, uid: &str) -> Result<(), EngineError> {
    let found =
        crate::shim::list(engine, &[(labels::OWNER, owner), (labels::POD_UID, uid)]).await?;
    let (holders, containers): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| found.is_holder);
    let removals = containers.iter().map(|found| remove(engine, &found.id));
    for removed in futures::future::join_all(removals).await {
        removed?;
    }
    for holder in holders {
        remove(engine, &holder.id).await?;
    }
    volume::remove(engine, &[(labels::OWNER, owner), (labels::POD_UID, uid)]).await
}

/// Removes one container, whether it runs or not.
pub(crate) async fn remove(engine: &Engine, id: &str) -> Result<(), EngineError> {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    let removed = engine.docker.remove_container(id, Some(options)).await;
    match removed.map_err(EngineError::of("removing a container")) {
        // Somebody else removes it, or has done so.
        Err(error) if error.is_absent() || error.is_conflict() => Ok(()),
        other => other,
    }
}

/// Makes and starts what holds the namespaces.
async fn hold(
    engine: &Engine,
    settings: &Settings,
    spec: &PodSpec,
    wanted: Option<Ipv4Addr>,
    protection: &Protection,
) -> Result<String, EngineError> {
    let name = format!("vaquita_POD_{}_{}_{}", spec.namespace, spec.name, spec.uid);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let mut body = holder(settings, spec, wanted);
    if let Some(host) = &mut body.host_config {
        host.oom_score_adj = Some(protection.score(PAUSE_OOM_SCORE));
    }
    let create = || {
        engine
            .docker
            .create_container(Some(options.clone()), body.clone())
    };
    let created = match create()
        .await
        .map_err(EngineError::of("making the pod's sandbox"))
    {
        Err(error) if error.is_conflict() => {
            // What is left of an attempt before.
            remove(engine, &name).await?;
            create()
                .await
                .map_err(EngineError::of("making the pod's sandbox"))
        }
        other => other,
    };
    let id = created?.id;
    let started = engine.docker.start_container(&id, None).await;
    if let Err(error) = started.map_err(EngineError::of("starting the pod's sandbox")) {
        // The other error tells more.
        let _ = remove(engine, &id).await;
        return Err(error);
    }
    Ok(id)
}

fn holder(settings: &Settings, spec: &PodSpec, wanted: Option<Ipv4Addr>) -> ContainerCreateBody {
    let is_on_host = spec.network == Network::Host;
    let endpoint = EndpointSettings {
        ipam_config: wanted.map(|ip| EndpointIpamConfig {
            ipv4_address: Some(ip.to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let networks = HashMap::from([(settings.network.clone(), endpoint)]);
    let host = HostConfig {
        network_mode: Some(if is_on_host {
            "host".to_owned()
        } else {
            settings.network.clone()
        }),
        ipc_mode: Some(if spec.host_ipc { "host" } else { "shareable" }.to_owned()),
        pid_mode: (spec.processes == Processes::Host).then(|| "host".to_owned()),
        sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.clone().into_iter().collect()),
        port_bindings: (!is_on_host && !spec.ports.is_empty()).then(|| ports(&spec.ports)),
        mounts: Some(volume::held(spec)),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        cpu_shares: Some(PAUSE_SHARES),
        log_config: Some(container::no_log()),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(settings.pause_image.clone()),
        // An image of the user's own has its own program.
        entrypoint: settings.is_own_pause().then(|| vec!["/pause".to_owned()]),
        hostname: Some(spec.hostname.clone()).filter(|name| !is_on_host && !name.is_empty()),
        labels: Some(labels_of(settings, spec, labels::SANDBOX)),
        exposed_ports: Some(spec.ports.iter().map(port_name).collect()),
        networking_config: (!is_on_host).then_some(NetworkingConfig {
            endpoints_config: Some(networks),
        }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn port_name(port: &HostPort) -> String {
    format!("{}/{}", port.port, port.protocol.as_str())
}

fn ports(ports: &[HostPort]) -> PortMap {
    let mut map = PortMap::new();
    for port in ports {
        let binding = PortBinding {
            host_ip: port.host_ip.map(|ip| ip.to_string()),
            host_port: Some(port.host_port.to_string()),
        };
        map.entry(port_name(port))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    map
}

/// The labels of everything of a pod.
pub(crate) fn labels_of(
    settings: &Settings,
    spec: &PodSpec,
    kind: &str,
) -> HashMap<String, String> {
    let labels = [
        (labels::OWNER, settings.owner.as_str()),
        (labels::KIND, kind),
        (labels::POD_UID, &spec.uid),
        (labels::POD_NAMESPACE, &spec.namespace),
        (labels::POD_NAME, &spec.name),
    ];
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn address(
    engine: &Engine,
    settings: &Settings,
    id: &str,
) -> Result<Option<Ipv4Addr>, EngineError> {
    let found = engine.docker.inspect_container(id, None).await;
    let found = found.map_err(EngineError::of("looking for the pod's address"))?;
    let networks = found
        .network_settings
        .and_then(|settings| settings.networks);
    let own = networks.and_then(|mut networks| networks.remove(&settings.network));
    Ok(own.and_then(|own| own.ip_address?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Protocol;

    fn settings() -> Settings {
        Settings::new("me", "vq", "10.250.0.0/24".parse().unwrap())
    }

    #[test]
    fn a_holder_may_do_nothing() {
        let spec = PodSpec {
            uid: "u".to_owned(),
            hostname: "h".to_owned(),
            ..PodSpec::default()
        };
        let body = holder(&settings(), &spec, Some(Ipv4Addr::new(10, 250, 0, 9)));
        let host = body.host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.network_mode.as_deref(), Some("vq"));
        assert_eq!(host.pid_mode, None);
        assert_eq!(body.entrypoint, Some(vec!["/pause".to_owned()]));
        assert_eq!(body.hostname.as_deref(), Some("h"));
        let networks = body.networking_config.unwrap().endpoints_config.unwrap();
        let address = networks["vq"]
            .ipam_config
            .as_ref()
            .unwrap()
            .ipv4_address
            .clone();
        assert_eq!(address.as_deref(), Some("10.250.0.9"));
    }

    #[test]
    fn a_pod_of_the_host_publishes_no_ports() {
        let port = HostPort {
            port: 80,
            protocol: Protocol::Tcp,
            host_port: 8080,
            host_ip: None,
        };
        let mut spec = PodSpec {
            ports: vec![port],
            ..PodSpec::default()
        };
        let map = holder(&settings(), &spec, None)
            .host_config
            .unwrap()
            .port_bindings
            .unwrap();
        assert_eq!(
            map["80/tcp"].as_ref().unwrap()[0].host_port.as_deref(),
            Some("8080")
        );
        spec.network = Network::Host;
        let body = holder(&settings(), &spec, None);
        assert_eq!(body.networking_config, None);
        assert_eq!(body.host_config.unwrap().port_bindings, None);
    }
}
