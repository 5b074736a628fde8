//! What a node has on an engine.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{
    models::{ContainerSummary, ContainerSummaryStateEnum},
    query_parameters::ListContainersOptionsBuilder,
};

use crate::{
    engine::{Engine, EngineError},
    intake::Intake,
    labels, network, pause,
    pod::{self, Pod, Protection},
    spec::PodSpec,
    volume,
};

/// The image that is made on the spot.
const PAUSE: (&str, &str) = ("vaquita.local/pause", "1");

/// The longest name of a network device, in bytes.
const LONGEST_DEVICE: usize = 15;

/// How a shim uses an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An identifier that no other user of the engine has: what bears it is the shim's to remove.
    pub owner: String,
    /// The name of the network that pods are on, made if absent; its device is called the same.
    pub network: String,
    /// The addresses of that network. The first one is the machine's.
    pub subnet: Subnet,
    /// Whether the engine hides pods behind the machine's address when they connect to what is not on the network.
    /// Default true.
    pub masquerade: bool,
    /// The image of what holds a pod's namespaces. Default: one that is made on the spot, of [`pause::program`].
    pub pause_image: String,
}

impl Settings {
    /// The defaults.
    pub fn new(owner: impl Into<String>, network: impl Into<String>, subnet: Subnet) -> Self {
        Self {
            owner: owner.into(),
            network: network.into(),
            subnet,
            masquerade: true,
            pause_image: format!("{}:{}", PAUSE.0, PAUSE.1),
        }
    }

    /// The name of the network's device.
    pub fn bridge(&self) -> String {
        let mut device = self.network.clone();
        device.truncate(device.floor_char_boundary(LONGEST_DEVICE));
        device
    }

    /// Whether the image is the one that is made here.
    pub(crate) fn is_own_pause(&self) -> bool {
        self.pause_image == format!("{}:{}", PAUSE.0, PAUSE.1)
    }
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub(crate) base: Ipv4Addr,
    pub(crate) bits: u8,
}

/// No subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of IPv4 addresses: ADDRESS/BITS, with 8 to 29 bits, is")]
pub struct NotASubnet(String);

impl Subnet {
    /// The range with this many leading bits that an address is in.
    pub fn new(address: Ipv4Addr, bits: u8) -> Result<Self, NotASubnet> {
        if !(8..=29).contains(&bits) {
            return Err(NotASubnet(format!("{address}/{bits}")));
        }
        let mask = u32::MAX << (32 - bits);
        Ok(Self {
            base: Ipv4Addr::from(u32::from(address) & mask),
            bits,
        })
    }

    /// The machine's own address in it, which is the first one.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - self.bits);
        u32::from(address) & mask == u32::from(self.base)
    }
}

impl FromStr for Subnet {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, bits)| Some((address.parse().ok()?, bits.parse().ok()?)));
        let (address, bits) = parsed.ok_or_else(|| NotASubnet(text.to_owned()))?;
        Self::new(address, bits)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// A container that was there before the shim was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// What the engine calls it.
    pub id: String,
    /// Its name in the pod; empty for what holds the namespaces.
    pub name: String,
    /// How many of the name were before it.
    pub attempt: u32,
    /// Whether it runs.
    pub is_running: bool,
    pub(crate) is_holder: bool,
    pub(crate) uid: String,
}

/// Why a shim cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no program for the machine, and no image was given.
    #[error("there is no pause program for the engine's architecture {0}: name an image of one")]
    Architecture(String),
    /// The image of the pause program could not be had.
    #[error("cannot make the image of the pause program: {0}")]
    Pause(EngineError),
    /// The network could not be made.
    #[error("cannot make the network {network}: {source}")]
    Network {
        /// Its name.
        network: String,
        /// What the engine said.
        source: EngineError,
    },
    /// The network is another user's.
    #[error("the engine has a network {0} that belongs to somebody else: choose another name")]
    Foreign(String),
    /// There is no room for a network of containers in the range of the pods.
    #[error("the range {0} of the pods is too narrow to share: give containers one of their own")]
    Subnet(String),
    /// What was there before could not be listed.
    #[error("cannot list what is left on the engine: {0}")]
    List(EngineError),
}

/// Pods on an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shim {
    engine: Engine,
    settings: Arc<Settings>,
    /// What was there at the beginning and has not been taken over yet, by pod.
    survivors: Arc<Mutex<BTreeMap<String, Vec<Survivor>>>>,
    protection: Protection,
    pub(crate) intake: Intake,
}

impl Shim {
    /// Makes what pods need on the engine, and looks what is left from before.
    pub async fn open(engine: Engine, settings: Settings) -> Result<Self, OpenError> {
        if settings.is_own_pause() {
            ensure_pause(&engine, &settings.pause_image).await?;
        } else if engine
            .image(&settings.pause_image)
            .await
            .map_err(OpenError::Pause)?
            .is_none()
        {
            engine
                .pull(&settings.pause_image, None)
                .await
                .map_err(OpenError::Pause)?;
        }
        network::ensure(&engine, &settings).await?;
        let found = list(&engine, &[(labels::OWNER, &settings.owner)]).await;
        let mut survivors: BTreeMap<String, Vec<Survivor>> = BTreeMap::new();
        for survivor in found.map_err(OpenError::List)? {
            survivors
                .entry(survivor.uid.clone())
                .or_default()
                .push(survivor);
        }
        Ok(Self {
            engine,
            settings: Arc::new(settings),
            survivors: Arc::new(Mutex::new(survivors)),
            protection: Protection::default(),
            intake: Intake::default(),
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How the engine is used.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What of a pod was there when the shim was opened, if its namespaces still are. Empty once the pod was made or removed.
    pub fn survivors(&self, uid: &str) -> Vec<Survivor> {
        let all = self
            .survivors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = all.get(uid).map(Vec::as_slice).unwrap_or_default();
        if !found
            .iter()
            .any(|survivor| survivor.is_holder && survivor.is_running)
        {
            return Vec::new();
        }
        found
            .iter()
            .filter(|survivor| !survivor.is_holder)
            .cloned()
            .collect()
    }

    /// Makes a pod; or takes it over, if it is there with its namespaces.
    pub async fn pod(&self, spec: PodSpec) -> Result<Pod, EngineError> {
        let left = self.take(&spec.uid);
        let holder = left
            .iter()
            .find(|survivor| survivor.is_holder && survivor.is_running);
        if let Some(holder) = holder.map(|holder| holder.id.clone()) {
            let left = left
                .into_iter()
                .filter(|survivor| !survivor.is_holder)
                .collect();
            return Pod::of(
                self.engine.clone(),
                self.settings.clone(),
                spec,
                holder,
                left,
                self.protection.clone(),
            )
            .await;
        }
        if !left.is_empty() {
            pod::remove_all(&self.engine, &self.settings.owner, &spec.uid).await?;
        }
        Pod::make(
            self.engine.clone(),
            self.settings.clone(),
            spec,
            self.protection.clone(),
        )
        .await
    }

    /// Removes what is left of pods that are not among these.
    pub async fn keep_only(&self, uids: &HashSet<String>) {
        let strays: Vec<String> = {
            let mut all = self
                .survivors
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let strays = all
                .keys()
                .filter(|uid| !uids.contains(*uid))
                .cloned()
                .collect();
            all.retain(|uid, _| uids.contains(uid));
            strays
        };
        for uid in strays {
            if let Err(error) = pod::remove_all(&self.engine, &self.settings.owner, &uid).await {
                tracing::warn!(uid, %error, "a pod's containers are left");
            }
        }
    }

    /// Removes what is left of a pod that will not be made again.
    pub async fn remove(&self, uid: &str) {
        if self.take(uid).is_empty() {
            return;
        }
        if let Err(error) = pod::remove_all(&self.engine, &self.settings.owner, uid).await {
            tracing::warn!(uid, %error, "a pod's containers are left");
        }
    }

    /// Removes all pods and the network.
    pub async fn close(&self) -> Result<(), EngineError> {
        let found = list(&self.engine, &[(labels::OWNER, &self.settings.owner)]).await?;
        for holders in [false, true] {
            let these = found.iter().filter(|found| found.is_holder == holders);
            let removals = these.map(|found| pod::remove(&self.engine, &found.id));
            for removed in futures::future::join_all(removals).await {
                removed?;
            }
        }
        volume::remove(&self.engine, &[(labels::OWNER, &self.settings.owner)]).await?;
        let removed = self
            .engine
            .docker
            .remove_network(&self.settings.network)
            .await;
        match removed.map_err(EngineError::of("removing the network")) {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }

    fn take(&self, uid: &str) -> Vec<Survivor> {
        let mut all = self
            .survivors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(uid).unwrap_or_default()
    }
}

/// Makes the image of the pause program, unless it is there.
async fn ensure_pause(engine: &Engine, name: &str) -> Result<(), OpenError> {
    if engine
        .image(name)
        .await
        .map_err(OpenError::Pause)?
        .is_some()
    {
        return Ok(());
    }
    let missing = || OpenError::Architecture(engine.architecture().to_owned());
    let program = pause::program(engine.architecture()).ok_or_else(missing)?;
    // Written to memory: it cannot fail.
    let root = pause::root(&program).map_err(|_| missing())?;
    engine
        .import(root, PAUSE.0, PAUSE.1)
        .await
        .map_err(OpenError::Pause)
}

/// Everything that has these labels, whether it runs or not.
pub(crate) async fn list(
    engine: &Engine,
    labels: &[(&str, &str)],
) -> Result<Vec<Survivor>, EngineError> {
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&labels::filter(labels))
        .build();
    let found = engine.docker.list_containers(Some(options)).await;
    let found = found.map_err(EngineError::of("listing containers"))?;
    Ok(found.into_iter().map(survivor).collect())
}

fn survivor(found: ContainerSummary) -> Survivor {
    let mut labels = found.labels.unwrap_or_default();
    let attempt = labels
        .get(labels::ATTEMPT)
        .and_then(|attempt| attempt.parse().ok());
    Survivor {
        id: found.id.unwrap_or_default(),
        is_running: found.state == Some(ContainerSummaryStateEnum::RUNNING),
        is_holder: labels
            .get(labels::KIND)
            .is_some_and(|kind| kind == labels::SANDBOX),
        name: labels.remove(labels::NAME).unwrap_or_default(),
        uid: labels.remove(labels::POD_UID).unwrap_or_default(),
        attempt: attempt.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_and_written() {
        let subnet: Subnet = "10.244.129.7/17".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.244.128.0/17");
        assert!(subnet.contains(Ipv4Addr::new(10, 244, 255, 255)));
        assert!(!subnet.contains(Ipv4Addr::new(10, 244, 127, 255)));
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/30",
            "10.0.0.0/7",
            "x/8",
            "10.0.0.0/x",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
