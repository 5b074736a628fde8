//! `networking.k8s.io/v1`.

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> [Resource; 5] {
    [
        ingress::resource(),
        ingress_class::resource(),
        ip_address::resource(),
        network_policy::resource(),
        service_cidr::resource(),
    ]
}
