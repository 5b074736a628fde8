//! The controller: keeps the proxy's table as the cluster's objects say, and says in turn what became of each Ingress.
//!
//! The table is compiled anew, as a whole, whenever an object changes that it may depend on. Changes that come together
//! are compiled together.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Secret, Service},
    networking::v1::{Ingress, IngressClass, IngressLoadBalancerIngress, IngressPortStatus},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Notify;
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    informer::{Informer, Watched},
    meta,
};

use crate::{
    CONTROLLER,
    certificates::KeyCache,
    compile::{Objects, Problem, compile},
    proxy::Proxy,
};

/// The annotation that named the class before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";
/// How long to wait for more changes before compiling: a list tells thousands at once.
const GATHER: Duration = Duration::from_millis(5);
/// When to try again to write what could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// Watches, compiles, reports.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    proxy: Arc<Proxy>,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    services: Informer<Service>,
    secrets: Informer<Secret>,
    changed: Arc<Notify>,
    points: Vec<IngressLoadBalancerIngress>,
    keys: KeyCache,
    /// What each Ingress was told last, by uid: an Event for each problem, once.
    told: HashMap<String, BTreeSet<Problem>>,
}

impl Controller {
    pub(crate) fn new(context: &Context, proxy: &Arc<Proxy>, addresses: &[SocketAddr]) -> Self {
        let informers = &context.informers;
        let changed = Arc::<Notify>::default();
        Self {
            recorder: context.recorder("ingress-controller"),
            proxy: proxy.clone(),
            ingresses: watched(&changed, informers.of()),
            classes: watched(&changed, informers.of()),
            services: watched(&changed, informers.of()),
            secrets: watched(&changed, informers.selected("type=kubernetes.io/tls")),
            changed,
            points: points(addresses, &proxy.options.publish),
            keys: KeyCache::default(),
            told: HashMap::new(),
            context: context.clone(),
        }
    }

    /// Until shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.context.shutdown.clone();
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let synced = async {
            self.ingresses.synced().await
                && self.classes.synced().await
                && self.services.synced().await
                && self.secrets.synced().await
        };
        if !synced.await {
            return;
        }
        loop {
            let all_written = self.look().await;
            if all_written {
                self.changed.notified().await;
            } else {
                // Nothing to do about either outcome: it is time to look again.
                let _ = tokio::time::timeout(RETRY, self.changed.notified()).await;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Compiles and reports. `false` if something could not be written.
    async fn look(&mut self) -> bool {
        let mut ours = self
            .ingresses
            .store()
            .matching(|ingress| self.is_ours(ingress));
        let objects = Objects {
            services: self.services.store(),
            secrets: self.secrets.store(),
        };
        let (table, problems) = compile(&mut ours, &objects, &mut self.keys);
        self.proxy.table.store(Arc::new(table));
        let mut all_written = true;
        let mut told = HashMap::new();
        for (ingress, (_, problems)) in ours.iter().zip(problems) {
            let uid = meta::uid(&**ingress).to_owned();
            let before = self.told.get(&uid);
            for problem in &problems {
                if before.is_none_or(|before| !before.contains(problem)) {
                    self.recorder
                        .warning(&**ingress, problem.reason, problem.message.clone());
                }
            }
            told.insert(uid, problems);
            all_written &= self.write_status(ingress).await;
        }
        self.told = told;
        all_written
    }

    /// Whether an Ingress is of a class of this controller.
    fn is_ours(&self, ingress: &Ingress) -> bool {
        if meta::is_terminating(&ingress.metadata) {
            return false;
        }
        let spec = ingress.spec.as_ref();
        let named = spec
            .and_then(|spec| spec.ingress_class_name.as_ref())
            .or_else(|| ingress.annotations().get(CLASS));
        let Some(name) = named else { return false };
        let class = self.classes.store().get(&ObjectKey::new("", &**name));
        class.is_some_and(|class| {
            let spec = class.spec.as_ref();
            spec.and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
        })
    }

    async fn write_status(&self, ingress: &Ingress) -> bool {
        let balancer = ingress
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref());
        let written = balancer.and_then(|balancer| balancer.ingress.clone());
        let written = written.unwrap_or_default();
        let mut points = self.points.clone();
        if !self.proxy.options.alone {
            let others = written.iter().filter(|point| !self.points.contains(point));
            points.extend(others.cloned());
            points.sort_by_cached_key(|point| (point.ip.clone(), format!("{:?}", point.ports)));
        }
        if written == points {
            return true;
        }
        let namespace = ingress.namespace().unwrap_or_default();
        let api = Api::<Ingress>::namespaced(self.context.client.clone(), &namespace);
        let patch = json!({"status": {"loadBalancer": {"ingress": points}}});
        let name = ingress.name_any();
        let patched = api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match patched {
            Ok(_) => true,
            Err(error) if meta::is_not_found(&error) => true,
            Err(error) => {
                tracing::debug!(%namespace, name, %error, "cannot write the status of an Ingress");
                false
            }
        }
    }
}

fn watched<K: Watched>(changed: &Arc<Notify>, informer: Informer<K>) -> Informer<K> {
    let changed = changed.clone();
    informer.subscribe(move |_| changed.notify_one());
    informer
}

/// What is said about where requests are accepted.
fn points(listeners: &[SocketAddr], publish: &[IpAddr]) -> Vec<IngressLoadBalancerIngress> {
    let own: BTreeSet<IpAddr> = listeners
        .iter()
        .map(SocketAddr::ip)
        .filter(|ip| !ip.is_unspecified())
        .collect();
    let ips = if publish.is_empty() {
        own
    } else {
        publish.iter().copied().collect()
    };
    let ports: Vec<_> = listeners
        .iter()
        .map(|listener| IngressPortStatus {
            port: listener.port().into(),
            protocol: "TCP".to_owned(),
            error: None,
        })
        .collect();
    ips.into_iter()
        .map(|ip| IngressLoadBalancerIngress {
            ip: Some(ip.to_string()),
            hostname: None,
            ports: Some(ports.clone()),
        })
        .collect()
}
