//! What there is where the kernel is not Linux: an answer.

use vaquita_net::Fabric;

use crate::{FilterError, KernelFilterConfig, KernelNetConfig, Metrics, StartError};

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

    /// Where to read the figures, for who does not own the device.
    pub fn meter(&self) -> Meter {
        match self.0 {}
    }
}

/// Reads the figures of a [`KernelNet`].
#[derive(Clone, Debug)]
pub struct Meter(std::convert::Infallible);

impl Meter {
    /// Figures of this moment.
    pub fn read(&self) -> Metrics {
        match self.0 {}
    }
}

/// The packet filter. There is none here.
#[derive(Debug)]
pub struct KernelFilter(std::convert::Infallible);

impl KernelFilter {
    /// Fails: see [`FilterError::NotLinux`].
    pub async fn start(_fabric: &Fabric, _config: KernelFilterConfig) -> Result<Self, FilterError> {
        Err(FilterError::NotLinux)
    }

    /// Removes the rules.
    pub async fn close(self) {
        match self.0 {}
    }

    /// Does nothing: nobody can have left anything.
    pub async fn sweep(_table: &str) -> Result<(), FilterError> {
        Ok(())
    }
}
