//! Volumes in memory: the engine mounts them while some container of the pod has them, and the one that holds the
//! namespaces has all.

use std::collections::HashMap;

use bollard::{
    models::{Mount, MountType, VolumeCreateRequest},
    query_parameters::ListVolumesOptionsBuilder,
};

use crate::{
    engine::{Engine, EngineError},
    labels,
    pod::labels_of,
    shim::Settings,
    spec::{MemoryVolume, PodSpec},
};

/// Where the namespaces' holder has a volume.
pub(crate) const HELD: &str = "/volumes";

/// What the engine calls a volume of a pod.
pub(crate) fn name(uid: &str, volume: &str) -> String {
    format!("vaquita_{uid}_{volume}")
}

/// Makes a pod's volumes.
pub(crate) async fn make(
    engine: &Engine,
    settings: &Settings,
    spec: &PodSpec,
) -> Result<(), EngineError> {
    for volume in &spec.memory_volumes {
        let request = VolumeCreateRequest {
            name: Some(name(&spec.uid, &volume.name)),
            driver: Some("local".to_owned()),
            driver_opts: Some(options(volume)),
            labels: Some(labels_of(settings, spec, labels::VOLUME)),
            ..VolumeCreateRequest::default()
        };
        let made = engine.docker.create_volume(request).await;
        made.map_err(EngineError::of("making a volume in memory"))?;
    }
    Ok(())
}

fn options(volume: &MemoryVolume) -> HashMap<String, String> {
    let size = volume.size.map(|size| format!(",size={size}"));
    let mode = match volume.group {
        Some(group) => format!("mode=2777,gid={group}"),
        None => "mode=0777".to_owned(),
    };
    let flags = format!("{mode}{}", size.unwrap_or_default());
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", &flags)];
    options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// How the namespaces' holder has them.
pub(crate) fn held(spec: &PodSpec) -> Vec<Mount> {
    let volumes = spec.memory_volumes.iter();
    let mounts =
        volumes.map(|volume| mount(&spec.uid, &volume.name, format!("{HELD}/{}", volume.name)));
    mounts.collect()
}

/// A volume at a place in a container.
pub(crate) fn mount(uid: &str, volume: &str, target: String) -> Mount {
    Mount {
        source: Some(name(uid, volume)),
        target: Some(target),
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    }
}

/// Removes all volumes that have these labels.
pub(crate) async fn remove(engine: &Engine, wanted: &[(&str, &str)]) -> Result<(), EngineError> {
    let options = ListVolumesOptionsBuilder::default()
        .filters(&labels::filter(wanted))
        .build();
    let found = engine.docker.list_volumes(Some(options)).await;
    let found = found.map_err(EngineError::of("listing volumes"))?;
    for volume in found.volumes.into_iter().flatten() {
        let options = None::<bollard::query_parameters::RemoveVolumeOptions>;
        let removed = engine.docker.remove_volume(&volume.name, options).await;
        match removed.map_err(EngineError::of("removing a volume")) {
            Err(error) if error.is_absent() => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_its_size_and_is_anybodys() {
        let volume = |size| MemoryVolume {
            name: "v".to_owned(),
            size,
            group: None,
        };
        assert_eq!(options(&volume(Some(5)))["o"], "mode=0777,size=5");
        assert_eq!(options(&volume(None))["o"], "mode=0777");
        let shared = MemoryVolume {
            group: Some(7),
            ..volume(None)
        };
        assert_eq!(options(&shared)["o"], "mode=2777,gid=7");
    }
}
