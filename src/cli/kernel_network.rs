//! Options of the way between pods and the kernel's network.

use clap::builder::RangedU64ValueParser;

use crate::{KernelNetworkConfig, KernelNetworkMode};

/// How the host and Linux containers reach pods.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The kernel's network")]
#[allow(
    clippy::struct_field_names,
    reason = "they are the names of the options"
)]
pub(super) struct KernelNetworkArgs {
    /// Whether processes of this machine and Linux containers reach pods and Services by their addresses: `on`, `off`, or
    /// `auto`, which is on if this process may make a network device and no route of the machine is in the way.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        env = "VAQUITA_KERNEL_NETWORK"
    )]
    kernel_network: KernelNetworkMode,
    /// The name of the network device. Two clusters on one machine need two, and ranges of addresses that differ.
    #[arg(long, value_name = "NAME", default_value = "vaquita0", value_parser = device)]
    kernel_network_device: String,
    /// Connections between the kernel and pods at a time; the beginnings of further ones are dropped [default: 16384].
    #[arg(long, value_name = "COUNT", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    kernel_network_connections: Option<usize>,
    /// Bytes that one such connection holds in each direction, 65536 to 16777216 [default: 524288].
    #[arg(long, value_name = "BYTES", value_parser = RangedU64ValueParser::<usize>::new().range(1 << 16..=1 << 24))]
    kernel_network_window: Option<usize>,
}

impl KernelNetworkArgs {
    pub(super) fn resolve(self) -> KernelNetworkConfig {
        let mut config = KernelNetworkConfig {
            mode: self.kernel_network,
            ..KernelNetworkConfig::default()
        };
        config.device.device = self.kernel_network_device;
        if let Some(connections) = self.kernel_network_connections {
            config.device.connections = connections;
        }
        if let Some(window) = self.kernel_network_window {
            config.device.window = window;
        }
        config
    }
}

/// A name that the kernel takes for a device.
fn device(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=15).contains(&text.len()) && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("1 to 15 letters, digits, - and _ are a device's name".to_owned())
    }
}
