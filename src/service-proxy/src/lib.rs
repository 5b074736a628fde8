//! The service proxy of a node: keeps the virtual network as the cluster wants it.
//!
//! Enter at [`start`]. Services and endpoint slices are watched; whenever one changes, its Service is computed anew
//! (`spec`) and, if the outcome differs, set in the network (`table`). Only endpoints that are ready get connections, so a
//! pod that fails its probe is out as soon as its slice says so.
//!
//! Next to it: `policies` does the same for `NetworkPolicies`, `dns` keeps the objects of the cluster's DNS, `health`
//! answers load balancers that ask for a node's endpoints, and [`ServiceLinks`] is what containers are told about Services
//! in their environment. All of it knows the cluster by a [`kube::Client`] alone.

mod dns;
mod health;
mod links;
mod policies;
mod policy_spec;
mod proxy;
mod spec;
mod table;

use kube::Client;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vaquita_net::Fabric;
use vaquita_reconcile::Recorder;

pub use crate::links::ServiceLinks;

/// In whose name events about Services are written.
const COMPONENT: &str = "kube-proxy";

/// Has this network follow the cluster: its Services, its network policies and the names of its DNS, as they are for the
/// node of this name. Runs in the background, in `tasks`, until `shutdown` is cancelled.
///
/// Must be called within a tokio runtime.
pub fn start(
    client: &Client,
    fabric: &Fabric,
    node: &str,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> ServiceLinks {
    let links = ServiceLinks::new();
    let recorder = Recorder::start(client.clone(), COMPONENT, shutdown.clone());
    let proxy = proxy::Proxy::new(
        client.clone(),
        node.to_owned(),
        fabric,
        Box::new(move |service, reason, message| recorder.warning(service, reason, message)),
        links.clone(),
    );
    tasks.spawn(proxy.run(shutdown.clone()));
    tasks.spawn(dns::run(
        client.clone(),
        fabric.clone(),
        node.to_owned(),
        shutdown.clone(),
    ));
    tasks.spawn(policies::follow(
        client.clone(),
        fabric.clone(),
        shutdown.clone(),
    ));
    links
}
