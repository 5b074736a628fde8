//! `EndpointSlice`s for Endpoints that somebody wrote by hand, for Services that select no pods.
//!
//! Proxies read slices alone. The mirror of an Endpoints object belongs to it, and goes with it or with its Service.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt as _, api::PostParams};

use super::{
    SyncError,
    backend::Family,
    exactly, selector,
    slices::{CAPACITY, MANAGED_BY_LABEL, SERVICE_LABEL},
    subsets, version, versions,
    written::Written,
};
use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
};

/// Says who keeps a slice: that of upstream's controller, whose place this one takes.
const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are nothing but somebody's lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// How many addresses of a subset are mirrored.
const MOST: usize = 1000;

/// Runs the mirror until shutdown.
pub(super) async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing {
        interval: super::PACE,
        ..Pacing::default()
    });
    let mirror = Arc::new(Mirror {
        services: context.informers.of(),
        endpoints: context.informers.of(),
        slices: context.informers.of(),
        written: Written::default(),
        context: context.clone(),
    });
    let synced = mirror.services.synced().await
        && mirror.endpoints.synced().await
        && mirror.slices.synced().await;
    if !synced {
        return;
    }
    let keys = queue.clone();
    mirror
        .services
        .subscribe(move |change| keys.add(ObjectKey::of(change.object())));
    let keys = queue.clone();
    mirror.endpoints.subscribe(move |change| {
        if !subsets::is_ours(change.object()) {
            keys.add(ObjectKey::of(change.object()));
        }
    });
    let (listener, keys) = (Arc::clone(&mirror), queue.clone());
    mirror.slices.subscribe(move |change| {
        let slice = change.object();
        let Some(service) = service_of(slice) else {
            return;
        };
        let gone = matches!(change, Change::Deleted(_));
        let uid = meta::uid(slice);
        if listener
            .written
            .is_news(&service, uid, version(slice), gone)
        {
            keys.add(service);
        }
    });
    context.drive(mirror, queue).await;
}

struct Mirror {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Written,
}

/// The Service whose mirrored slice this is.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.labels();
    let name = labels.get(SERVICE_LABEL)?;
    let ours = labels
        .get(MANAGED_BY_LABEL)
        .is_some_and(|by| by == MANAGED_BY);
    ours.then(|| ObjectKey::new(slice.namespace().unwrap_or_default(), name))
}

impl Reconciler for Mirror {
    /// The name of the Service, and of its Endpoints.
    type Key = ObjectKey;
    type Error = SyncError;
    const NAME: &'static str = "endpoint-mirror";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let of_service = |slice: &EndpointSlice| service_of(slice).as_ref() == Some(key);
        let slices = self.slices.store().in_namespace(&key.namespace, of_service);
        if !self.written.all_seen(key, &versions(&slices, None)) {
            return Ok(Next::After(super::SECOND_LOOK));
        }
        let service = self.services.store().get(key);
        let is_plain = service.is_some_and(|service| selector(&service).is_none());
        let endpoints = self.endpoints.store().get(key);
        let wanted = match endpoints.filter(|endpoints| is_plain && is_mirrored(endpoints)) {
            Some(endpoints) => mirrored(&endpoints),
            None => Vec::new(),
        };
        self.carry_out(key, slices, wanted).await?;
        Ok(Next::Wait)
    }
}

impl Mirror {
    /// Makes the slices those which are wanted, changing as many as possible in place.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        mut known: Vec<Arc<EndpointSlice>>,
        wanted: Vec<EndpointSlice>,
    ) -> Result<(), SyncError> {
        let api = Api::<EndpointSlice>::namespaced(self.context.client.clone(), &key.namespace);
        let params = PostParams::default();
        for mut slice in wanted {
            let same = |own: &Arc<EndpointSlice>| {
                own.address_type == slice.address_type && own.ports == slice.ports
            };
            let written = match known.iter().position(same) {
                None => api
                    .create(&params, &slice)
                    .await
                    .map_err(SyncError::CreateSlice)?,
                Some(at) => {
                    let own = known.swap_remove(at);
                    if own.endpoints == slice.endpoints && own.labels() == slice.labels() {
                        continue;
                    }
                    let name = own.name_any();
                    slice.metadata.name = Some(name.clone());
                    slice.metadata.resource_version = own.resource_version();
                    api.replace(&name, &params, &slice)
                        .await
                        .map_err(|error| SyncError::UpdateSlice(name, error))?
                }
            };
            self.written
                .wrote(key, meta::uid(&written), version(&written));
        }
        for slice in known {
            let name = slice.name_any();
            match api.delete(&name, &exactly(&*slice)).await {
                Ok(_) => self.written.deleted(key, meta::uid(&*slice)),
                Err(error) if meta::is_not_found(&error) => {}
                Err(error) => return Err(SyncError::DeleteSlice(name, error)),
            }
        }
        Ok(())
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints
        .labels()
        .get(SKIP)
        .is_some_and(|skip| skip == "true");
    !(skipped
        || endpoints.annotations().contains_key(LEADER)
        || subsets::is_ours(endpoints)
        || meta::is_terminating(&endpoints.metadata))
}

/// The slices that say the same as `endpoints`.
fn mirrored(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for family in [Family::V4, Family::V6] {
            let all = addresses(subset, family);
            slices.extend(all.chunks(CAPACITY).map(|chunk| EndpointSlice {
                metadata: metadata(endpoints),
                address_type: family.name().to_owned(),
                endpoints: Some(chunk.to_vec()),
                ports: Some(ports(subset)),
            }));
        }
    }
    slices
}

fn addresses(subset: &EndpointSubset, family: Family) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|own| (own, true));
    let others = subset.not_ready_addresses.iter().flatten();
    let all = ready.chain(others.map(|own| (own, false))).take(MOST);
    let of_family =
        |address: &EndpointAddress| address.ip.parse().is_ok_and(|ip| Family::of(ip) == family);
    all.filter(|(address, _)| of_family(address))
        .map(|(address, ready)| Endpoint {
            addresses: vec![address.ip.clone()],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                ..EndpointConditions::default()
            }),
            hostname: address.hostname.clone().filter(|name| !name.is_empty()),
            node_name: address.node_name.clone(),
            target_ref: address.target_ref.clone(),
            ..Endpoint::default()
        })
        .collect()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let name = endpoints.name_any();
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_LABEL.to_owned(), name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    ObjectMeta {
        namespace: endpoints.namespace(),
        generate_name: Some(format!("{name}-")),
        labels: Some(labels),
        owner_references: Some(vec![meta::controller_reference(endpoints)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const SERVICES: &str = "api/v1/services";
    const ENDPOINTS: &str = "api/v1/endpoints";
    const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";

    fn by_hand(addresses: &[&str]) -> Value {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let subset = json!({ "addresses": addresses, "ports": [{ "name": "web", "port": 80, "protocol": "TCP" }] });
        json!({ "metadata": { "namespace": "shop", "name": "db" }, "subsets": [subset] })
    }

    /// All addresses of mirrored slices, with the type of their slice.
    fn told(api: &FakeApi) -> Vec<(String, String)> {
        let mut told = Vec::new();
        for slice in api.objects(SLICES) {
            assert_eq!(slice["metadata"]["labels"][MANAGED_BY_LABEL], MANAGED_BY);
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                told.push((text(&slice["addressType"]), text(&endpoint["addresses"][0])));
            }
        }
        told.sort();
        told
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_by_hand_are_told_as_slices() {
        let api = FakeApi::new();
        let service = json!({ "metadata": { "namespace": "shop", "name": "db" }, "spec": { "ports": [{ "port": 80 }] } });
        api.put(SERVICES, &service);
        api.put(ENDPOINTS, &by_hand(&["10.1.0.1", "fd00::1"]));
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        let pair = |family: &str, ip: &str| (family.to_owned(), ip.to_owned());
        let both = [pair("IPv4", "10.1.0.1"), pair("IPv6", "fd00::1")];
        api.until("two slices", |api| told(api) == both).await;
        api.put(ENDPOINTS, &by_hand(&["10.1.0.2"]));
        api.until("another address", |api| {
            told(api) == [pair("IPv4", "10.1.0.2")]
        })
        .await;
        api.settle().await;
        let written = api.writes().len();
        api.settle().await;
        assert_eq!(api.writes().len(), written, "nothing is left to do");
        api.edit(ENDPOINTS, "shop", "db", |endpoints| {
            endpoints["metadata"]["labels"] = json!({ SKIP: "true" });
        });
        api.until("none", |api| told(api).is_empty()).await;
    }
}
