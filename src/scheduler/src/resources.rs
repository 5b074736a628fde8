//! Amounts of resources: what a node has, what a pod asks for, what is left.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use vaquita_api::quantity;

const CPU: &str = "cpu";
const MEMORY: &str = "memory";

/// What a container without a CPU request counts as when nodes are compared, in millicores. It does not reserve it.
const UNSTATED_CPU: i64 = 100;
/// The same for memory, in bytes.
const UNSTATED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: `cpu` in millicores, everything else in whole units (bytes for `memory`).
///
/// The two that every decision looks at have fields of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    others: BTreeMap<String, i64>,
}

impl Resources {
    /// From a list as the API has it. A quantity that cannot be read counts as nothing; the API server does not
    /// let such a one in.
    pub(crate) fn of(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            *resources.slot(name) = amount(name, &quantity.0);
        }
        resources
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        match name {
            CPU => self.cpu,
            MEMORY => self.memory,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// For each resource, the greater of both.
    fn raise(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// The names of what `wanted` asks for beyond what is here once `used` is taken off.
    pub(crate) fn lacking<'w>(
        &self,
        used: &Self,
        wanted: &'w Self,
    ) -> impl Iterator<Item = &'w str> {
        wanted
            .amounts()
            .filter(move |(name, amount)| {
                *amount > 0 && *amount > self.get(name).saturating_sub(used.get(name))
            })
            .map(|(name, _)| name)
    }

    /// Whether there is nothing of anything.
    pub(crate) fn is_nothing(&self) -> bool {
        self.amounts().all(|(_, amount)| amount == 0)
    }

    /// Every resource with its amount.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (&str, i64)> {
        let others = self
            .others
            .iter()
            .map(|(name, amount)| (name.as_str(), *amount));
        [(CPU, self.cpu), (MEMORY, self.memory)]
            .into_iter()
            .chain(others)
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        for (name, amount) in other.amounts() {
            let slot = self.slot(name);
            *slot = with(*slot, amount);
        }
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            CPU => &mut self.cpu,
            MEMORY => &mut self.memory,
            other => self.others.entry(other.to_owned()).or_default(),
        }
    }
}

/// What a pod reserves: the sum of its containers, or what its most demanding moment of initialisation needs if that
/// is more, and the overhead of its runtime class.
pub(crate) fn requested(spec: &PodSpec) -> Resources {
    let mut requested = reserve(spec, |container| Resources::of(requests(container)));
    state_for_all(spec, &mut requested);
    requested.add(&Resources::of(spec.overhead.as_ref()));
    requested
}

fn requests(container: &Container) -> Option<&BTreeMap<String, Quantity>> {
    container.resources.as_ref()?.requests.as_ref()
}

/// What the pod states for all of its containers together counts in place of their sum.
fn state_for_all(spec: &PodSpec, sum: &mut Resources) {
    let stated = spec.resources.as_ref().and_then(|it| it.requests.as_ref());
    for (name, quantity) in stated.into_iter().flatten() {
        if matches!(name.as_str(), CPU | MEMORY) || name.starts_with("hugepages-") {
            *sum.slot(name) = amount(name, &quantity.0);
        }
    }
}

/// The same for comparing nodes: containers that state nothing count as a little, so that they spread too.
pub(crate) fn weighed(spec: &PodSpec) -> Resources {
    let mut sum = reserve(spec, |container| {
        let requests = requests(container);
        let states = |name| requests.is_some_and(|requests| requests.contains_key(name));
        let mut weighed = Resources::of(requests);
        if !states(CPU) {
            weighed.cpu = UNSTATED_CPU;
        }
        if !states(MEMORY) {
            weighed.memory = UNSTATED_MEMORY;
        }
        weighed
    });
    state_for_all(spec, &mut sum);
    sum.add(&Resources::of(spec.overhead.as_ref()));
    sum
}

fn reserve(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    // Sidecars start in their turn and stay; an ordinary init container runs beside those before it.
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.raise(&moment);
    }
    running.add(&sidecars);
    running.raise(&starting);
    running
}

fn amount(name: &str, text: &str) -> i64 {
    text.parse::<quantity::Quantity>().map_or(0, |quantity| {
        if name == CPU {
            quantity.milli_value()
        } else {
            quantity.value()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, cpu: Option<&str>, sidecar: bool) -> Container {
        let requests =
            cpu.map(|cpu| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]));
        Container {
            name: name.to_owned(),
            resources: Some(k8s_openapi::api::core::v1::ResourceRequirements {
                requests,
                ..Default::default()
            }),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..Container::default()
        }
    }

    #[test]
    fn containers_add_up_and_the_overhead_comes_on_top() {
        let spec = PodSpec {
            containers: vec![
                container("a", Some("250m"), false),
                container("b", Some("1"), false),
            ],
            overhead: Some(BTreeMap::from([(
                "cpu".to_owned(),
                Quantity("50m".to_owned()),
            )])),
            ..PodSpec::default()
        };
        assert_eq!(requested(&spec).get("cpu"), 1300);
    }

    #[test]
    fn an_init_container_counts_only_if_it_needs_more_than_what_follows() {
        let with = |init: &str| PodSpec {
            init_containers: Some(vec![container("init", Some(init), false)]),
            containers: vec![container("a", Some("1"), false)],
            ..PodSpec::default()
        };
        assert_eq!(requested(&with("500m")).get("cpu"), 1000);
        assert_eq!(requested(&with("3")).get("cpu"), 3000);
    }

    #[test]
    fn a_sidecar_counts_beside_what_starts_after_it() {
        let spec = PodSpec {
            init_containers: Some(vec![
                container("early", Some("2"), false),
                container("sidecar", Some("500m"), true),
                container("late", Some("2"), false),
            ]),
            containers: vec![container("a", Some("1"), false)],
            ..PodSpec::default()
        };
        assert_eq!(requested(&spec).get("cpu"), 2500);
    }

    #[test]
    fn what_is_not_stated_is_weighed_but_not_reserved() {
        let spec = PodSpec {
            containers: vec![container("a", None, false)],
            ..PodSpec::default()
        };
        assert_eq!(requested(&spec).get("cpu"), 0);
        assert_eq!(weighed(&spec).get("cpu"), UNSTATED_CPU);
        assert_eq!(weighed(&spec).get("memory"), UNSTATED_MEMORY);
    }

    #[test]
    fn what_the_pod_states_counts_in_place_of_the_sum_of_its_containers() {
        let spec = PodSpec {
            containers: vec![
                container("a", Some("1"), false),
                container("b", None, false),
            ],
            resources: Some(k8s_openapi::api::core::v1::ResourceRequirements {
                requests: Some(BTreeMap::from([
                    ("cpu".to_owned(), Quantity("3".to_owned())),
                    ("memory".to_owned(), Quantity("1Gi".to_owned())),
                ])),
                ..Default::default()
            }),
            ..PodSpec::default()
        };
        assert_eq!(requested(&spec).get("cpu"), 3000);
        assert_eq!(requested(&spec).get("memory"), 1 << 30);
        assert_eq!(weighed(&spec).get("cpu"), 3000);
    }

    #[test]
    fn lacking_names_what_does_not_fit() {
        let list = |cpu: &str, memory: &str| {
            Resources::of(Some(&BTreeMap::from([
                ("cpu".to_owned(), Quantity(cpu.to_owned())),
                ("memory".to_owned(), Quantity(memory.to_owned())),
            ])))
        };
        let (has, used) = (list("2", "1Gi"), list("1500m", "0"));
        assert_eq!(has.lacking(&used, &list("500m", "1Gi")).count(), 0);
        assert_eq!(
            has.lacking(&used, &list("501m", "2Gi")).collect::<Vec<_>>(),
            ["cpu", "memory"]
        );
    }
}
