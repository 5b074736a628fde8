//! What there is where the kernel is not Linux: an answer.

use vaquita_net::Fabric;

use crate::{KernelNetConfig, Metrics, StartError};

/// The device and what serves it. There is none here.
#[derive(Debug)]
pub struct KernelNet(std::convert::Infallible);

impl KernelNet {
    /// Fails: see [`StartError::NotLinux`].
    pub fn start(_fabric: &Fabric, _config: KernelNetConfig) -> Result<Self, StartError> {
        Err(StartError::NotLinux)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        match self.0 {}
    }

    /// Figures of this moment.
    pub fn metrics(&self) -> Metrics {
        match self.0 {}
    }
}
