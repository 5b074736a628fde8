//! The bridge that pods are on.

use std::collections::HashMap;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};

use crate::{
    engine::{Engine, EngineError},
    labels,
    shim::{OpenError, Settings},
};

/// The engine's option for the name of a bridge's device.
const DEVICE: &str = "com.docker.network.bridge.name";
/// The engine's option for whether it hides pods behind the machine's address on their way out.
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// Makes the network, unless it is there as it should be. One of ours that is different is made anew, which fails while
/// somebody uses it; one of somebody else's is left alone.
pub(crate) async fn ensure(engine: &Engine, settings: &Settings) -> Result<(), OpenError> {
    let failed = |source| OpenError::Network {
        network: settings.network.clone(),
        source,
    };
    let name = &settings.network;
    let found = engine.docker.inspect_network(name, None).await;
    match found {
        Ok(found) => {
            let owner = found
                .labels
                .as_ref()
                .and_then(|labels| labels.get(labels::OWNER));
            if owner != Some(&settings.owner) {
                return Err(OpenError::Foreign(name.clone()));
            }
            let config = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
            let wanted = settings.subnet.to_string();
            if config
                .iter()
                .any(|config| config.subnet.as_ref() == Some(&wanted))
            {
                return Ok(());
            }
            let removed = engine.docker.remove_network(name).await;
            removed
                .map_err(EngineError::of("removing the old network"))
                .map_err(failed)?;
        }
        Err(error) => {
            let error = EngineError::of("looking for the network")(error);
            if !error.is_absent() {
                return Err(failed(error));
            }
        }
    }
    let made = engine.docker.create_network(request(settings)).await;
    made.map(drop)
        .map_err(EngineError::of("making the network"))
        .map_err(failed)
}

fn request(settings: &Settings) -> NetworkCreateRequest {
    let gateway = settings.subnet.gateway();
    NetworkCreateRequest {
        name: settings.network.clone(),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(settings.subnet.to_string()),
                gateway: Some(gateway.to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        options: Some(HashMap::from([
            (DEVICE.to_owned(), settings.bridge()),
            (MASQUERADE.to_owned(), settings.masquerade.to_string()),
        ])),
        labels: Some(HashMap::from([(
            labels::OWNER.to_owned(),
            settings.owner.clone(),
        )])),
        ..NetworkCreateRequest::default()
    }
}
