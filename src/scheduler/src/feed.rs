//! Everything that the scheduler hears of the cluster, as one stream.

use std::{fmt::Debug, future};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
    storage::v1::{CSINode, StorageClass},
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};

/// Pods that hold no resources any more are of no interest.
const LIVE_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// How many kinds besides pods and nodes there are to be listed before decisions can be made.
pub(crate) const MINOR_KINDS: usize = 10;

/// What has happened.
#[expect(
    clippy::large_enum_variant,
    reason = "each is taken in as soon as it is heard"
)]
pub(crate) enum Heard {
    Pod(watcher::Event<Pod>),
    Node(watcher::Event<Node>),
    Namespace(Change<Namespace>),
    Service(Change<Service>),
    Budget(Change<PodDisruptionBudget>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
    CsiNode(Change<CSINode>),
    DeviceClaim(Change<ResourceClaim>),
    DeviceClass(Change<DeviceClass>),
    Devices(Change<ResourceSlice>),
}

/// A change of objects of which there are few.
pub(crate) enum Change<K> {
    /// These are all of them.
    All(Vec<K>),
    Is(K),
    Gone(K),
}

/// Follows everything, whatever happens.
pub(crate) fn follow(client: &Client) -> BoxStream<'static, Heard> {
    let config = watcher::Config::default();
    let mut all: Vec<BoxStream<'static, Heard>> = vec![
        events::<Pod>(client, config.fields(LIVE_PODS))
            .map(Heard::Pod)
            .boxed(),
        events::<Node>(client, watcher::Config::default())
            .map(Heard::Node)
            .boxed(),
    ];
    all.push(changes(client).map(Heard::Namespace).boxed());
    all.push(changes(client).map(Heard::Service).boxed());
    all.push(changes(client).map(Heard::Budget).boxed());
    all.push(changes(client).map(Heard::Claim).boxed());
    all.push(changes(client).map(Heard::Volume).boxed());
    all.push(changes(client).map(Heard::Class).boxed());
    all.push(changes(client).map(Heard::CsiNode).boxed());
    all.push(changes(client).map(Heard::DeviceClaim).boxed());
    all.push(changes(client).map(Heard::DeviceClass).boxed());
    all.push(changes(client).map(Heard::Devices).boxed());
    futures::stream::select_all(all).boxed()
}

trait Followed:
    kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + 'static
{
}

impl<K> Followed for K where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + Debug
        + Send
        + 'static
{
}

fn events<K: Followed>(
    client: &Client,
    config: watcher::Config,
) -> BoxStream<'static, watcher::Event<K>> {
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    events
        .filter_map(|event| {
            if let Err(error) = &event {
                tracing::debug!(%error, "watch interrupted");
            }
            future::ready(event.ok())
        })
        .boxed()
}

/// The same, with every list whole. Of a kind that the API server does not know, as an older one may not, there is none.
fn changes<K: Followed>(client: &Client) -> BoxStream<'static, Change<K>> {
    let mut listed = Vec::new();
    let mut is_told = false;
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    events
        .default_backoff()
        .filter_map(move |event| {
            future::ready(match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.push(object);
                    None
                }
                Ok(watcher::Event::InitDone) => {
                    is_told = true;
                    Some(Change::All(std::mem::take(&mut listed)))
                }
                Ok(watcher::Event::Apply(object)) => Some(Change::Is(object)),
                Ok(watcher::Event::Delete(object)) => Some(Change::Gone(object)),
                Err(error) => {
                    tracing::debug!(%error, "watch interrupted");
                    let is_unknown = is_not_served(&error) && !is_told;
                    is_told |= is_unknown;
                    is_unknown.then(|| Change::All(Vec::new()))
                }
            })
        })
        .boxed()
}

fn is_not_served(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
    )
}
