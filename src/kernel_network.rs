//! The way between the pods' network and the kernel's: opened if it is wanted, and if this machine lets us.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path, str::FromStr};

use vaquita_kernel_net::{
    FilterError, KernelFilter, KernelFilterConfig, KernelNet, KernelNetConfig, Meter, Metrics,
};
use vaquita_net::{Fabric, Ipv4Net};
use vaquita_node::Containers;

/// Whether processes of the host and Linux containers reach pods and Services by their addresses, and how.
#[derive(Debug, Clone, Default)]
pub struct KernelNetworkConfig {
    /// Whether they do.
    pub mode: KernelNetworkMode,
    /// The device and its limits. The addresses of Services and containers are filled in when the cluster starts.
    pub device: KernelNetConfig,
}

/// Whether the kernel is to know a way to pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KernelNetworkMode {
    /// No.
    #[default]
    Off,
    /// If this process may make a network device and the host routes none of the addresses elsewhere; else a warning and a
    /// condition of the node say why not.
    Auto,
    /// Yes, or the start fails.
    On,
}

/// What is none of the modes.
#[derive(Debug, thiserror::Error)]
#[error("neither auto, nor on, nor off")]
pub struct NotAMode;

impl FromStr for KernelNetworkMode {
    type Err = NotAMode;

    fn from_str(text: &str) -> Result<Self, NotAMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(NotAMode),
        }
    }
}

/// Why there is no way, though there is to be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No device.
    #[error(transparent)]
    Device(#[from] vaquita_kernel_net::StartError),
    /// No rules for containers.
    #[error("setting rules for containers")]
    Filter(#[from] FilterError),
}

/// The default name of the device, and that of the table of rules with it. Others have the same name for both.
const DEVICE: (&str, &str) = ("vaquita0", "vaquita");
/// How far the address of the cluster's DNS is from the first of Services.
const NAME_SERVER: u32 = 9;

/// What came of it.
#[derive(Debug)]
pub(crate) enum KernelNetwork {
    /// Nobody wanted it.
    Unwanted,
    /// It cannot be, for this reason.
    Failed(String),
    /// It is there.
    Open {
        device: KernelNet,
        /// If there are containers on this machine.
        filter: Option<KernelFilter>,
    },
}

impl KernelNetwork {
    /// Opens the way to a fabric's pods and to the addresses of Services, if it is wanted. Linux containers then ask for names
    /// where pods ask.
    pub(crate) async fn join(
        config: &KernelNetworkConfig,
        fabric: &Fabric,
        containers: Option<&mut Containers>,
    ) -> Result<Self, JoinError> {
        if config.mode == KernelNetworkMode::Off {
            return Ok(Self::Unwanted);
        }
        match open(&config.device, fabric, containers).await {
            Ok((device, filter)) => Ok(Self::Open { device, filter }),
            Err(error) if config.mode == KernelNetworkMode::Auto => {
                let why = chain(&error);
                tracing::warn!(%why, "pods are not reached from the host by their addresses");
                Ok(Self::Failed(why))
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the way, and removes every rule of it.
    pub(crate) async fn close(self) {
        if let Self::Open { device, filter } = self {
            if let Some(filter) = filter {
                filter.close().await;
            }
            drop(device);
        }
    }

    /// The device, or why there is none; nothing if nobody wanted it.
    pub(crate) fn outcome(&self) -> Option<Result<String, String>> {
        match self {
            Self::Unwanted => None,
            Self::Failed(why) => Some(Err(why.clone())),
            Self::Open { device, .. } => Some(Ok(device.device().to_owned())),
        }
    }

    /// What to say of it when the cluster starts, if there is something.
    pub(crate) fn describe(&self) -> Option<String> {
        let outcome = self.outcome()?;
        Some(outcome.unwrap_or_else(|_| "none".to_owned()))
    }

    /// Writes what the device counts, in the text format of metrics; nothing without one.
    pub(crate) fn metrics(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let meter = match self {
            Self::Open { device, .. } => Some(device.meter()),
            Self::Unwanted | Self::Failed(_) => None,
        };
        move || {
            meter
                .as_ref()
                .map(Meter::read)
                .map(|read| render(&read))
                .unwrap_or_default()
        }
    }
}

/// Makes the device, and the rules for containers if there are any on this machine.
async fn open(
    config: &KernelNetConfig,
    fabric: &Fabric,
    containers: Option<&mut Containers>,
) -> Result<(KernelNet, Option<KernelFilter>), JoinError> {
    let services = vaquita_apiserver::Config::default().service_network;
    let settings = containers
        .as_ref()
        .map(|containers| containers.shim.settings().clone());
    // The bridge of an engine elsewhere is not ours to tell anything.
    let settings =
        settings.filter(|settings| Path::new("/sys/class/net").join(settings.bridge()).exists());
    let subnet = settings
        .as_ref()
        .and_then(|settings| range(&settings.subnet));
    let config = KernelNetConfig {
        services: range(&services).into_iter().collect(),
        beside: subnet.into_iter().collect(),
        ..config.clone()
    };
    let name = config.device.clone();
    let table = if name == DEVICE.0 {
        DEVICE.1.to_owned()
    } else {
        name.clone()
    };
    let device = KernelNet::start(fabric, config)?;
    let (Some(settings), Some(subnet), Some(containers)) = (settings, subnet, containers) else {
        tokio::spawn(async move {
            // Fails where there is no filter, and so nothing is left in it.
            let _nothing = KernelFilter::sweep(&table).await;
        });
        return Ok((device, None));
    };
    let filter = KernelFilterConfig {
        table,
        bridge: settings.bridge(),
        containers: subnet,
        device: name,
    };
    let filter = KernelFilter::start(fabric, filter).await?;
    let server = u32::from(services.first()) + NAME_SERVER;
    containers.dns = Some(Ipv4Addr::from(server).into());
    Ok((device, Some(filter)))
}

fn render(metrics: &Metrics) -> String {
    let mut text = String::new();
    let connections = metrics.connections;
    // Writing to memory does not fail.
    let _ = writeln!(
        text,
        "# TYPE vaquita_kernel_network_connections gauge\nvaquita_kernel_network_connections {connections}"
    );
    for (name, value) in [
        ("accepted_connections", metrics.accepted),
        ("refused_connections", metrics.refused),
        ("overflowed_connections", metrics.overflowed),
        ("received_packets", metrics.packets_in),
        ("received_bytes", metrics.bytes_in),
        ("sent_packets", metrics.packets_out),
        ("sent_bytes", metrics.bytes_out),
        ("dropped_packets", metrics.dropped),
    ] {
        let _ = writeln!(
            text,
            "# TYPE vaquita_kernel_network_{name} counter\nvaquita_kernel_network_{name}_total {value}"
        );
    }
    text
}

/// A range of addresses, of whichever type.
fn range(range: &impl ToString) -> Option<Ipv4Net> {
    range.to_string().parse().ok()
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read() {
        assert_eq!(
            "auto".parse::<KernelNetworkMode>().unwrap(),
            KernelNetworkMode::Auto
        );
        assert_eq!(
            "off".parse::<KernelNetworkMode>().unwrap(),
            KernelNetworkMode::Off
        );
        assert!("yes".parse::<KernelNetworkMode>().is_err());
    }

    #[tokio::test]
    async fn nothing_is_opened_or_counted_unless_it_is_wanted() {
        let fabric = Fabric::new(vaquita_net::FabricConfig::default()).unwrap();
        let config = KernelNetworkConfig::default();
        let opened = KernelNetwork::join(&config, &fabric, None).await.unwrap();
        assert!(matches!(opened, KernelNetwork::Unwanted));
        assert_eq!(opened.metrics()(), "");
    }

    #[test]
    fn figures_are_written_for_scrapers() {
        let text = render(&Metrics::default());
        assert!(text.contains("# TYPE vaquita_kernel_network_connections gauge\n"));
        assert!(text.ends_with("vaquita_kernel_network_dropped_packets_total 0\n"));
    }
}
