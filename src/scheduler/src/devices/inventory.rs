//! Devices as drivers tell of them, by slices that make up pools.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::NodeSelector,
    resource::v1::{Device as DeviceObject, DeviceTaint, ResourceSlice, ResourceSliceSpec},
};
use serde_json::{Map, Value, json};

use crate::{cluster::Facts, selector::node_matches};

/// Names a device in the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DeviceId {
    pub(super) driver: Arc<str>,
    pub(super) pool: Arc<str>,
    pub(super) name: Arc<str>,
}

impl DeviceId {
    pub(super) fn new(driver: &str, pool: &str, name: &str) -> Self {
        Self {
            driver: driver.into(),
            pool: pool.into(),
            name: name.into(),
        }
    }
}

/// From which nodes a device can be reached.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reach {
    Node(String),
    Nodes(NodeSelector),
    All,
}

impl Reach {
    fn of_slice(spec: &ResourceSliceSpec) -> Option<Self> {
        Self::of(
            spec.node_name.as_ref(),
            spec.node_selector.as_ref(),
            spec.all_nodes,
        )
    }

    fn of(name: Option<&String>, nodes: Option<&NodeSelector>, all: Option<bool>) -> Option<Self> {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return Some(Self::Node(name.clone()));
        }
        if let Some(nodes) = nodes {
            return Some(Self::Nodes(nodes.clone()));
        }
        (all == Some(true)).then_some(Self::All)
    }

    fn includes(&self, node: &Facts) -> bool {
        match self {
            Self::Node(name) => *name == node.name,
            Self::Nodes(selector) => node_matches(selector, &node.name, &node.labels),
            Self::All => true,
        }
    }
}

/// A device that can be given to a claim as a whole.
#[derive(Debug)]
pub(super) struct Device {
    /// Tells this description of the device apart from every other that there ever was.
    pub(super) number: u64,
    pub(super) id: DeviceId,
    pub(super) reach: Reach,
    /// What selectors see of it.
    pub(super) view: Value,
    pub(super) taints: Vec<DeviceTaint>,
}

impl Device {
    fn of(
        device: &DeviceObject,
        spec: &ResourceSliceSpec,
        reach: Reach,
        id: DeviceId,
        number: u64,
    ) -> Self {
        Self {
            number,
            id,
            reach,
            view: view(device, &spec.driver),
            taints: device.taints.clone().unwrap_or_default(),
        }
    }

    /// The value of an attribute by its full name, such as `gpu.example.com/numa`.
    pub(super) fn attribute(&self, name: &str) -> Option<&Value> {
        let (domain, name) = name.split_once('/')?;
        self.view.get("attributes")?.get(domain)?.get(name)
    }
}

/// Whether it is given as a whole, to one claim at a time: all that is done here.
fn is_whole(device: &DeviceObject) -> bool {
    let counts = device.consumes_counters.as_ref();
    counts.is_none_or(Vec::is_empty)
        && device.allow_multiple_allocations != Some(true)
        && device.binding_conditions.as_ref().is_none_or(Vec::is_empty)
}

/// The device by domains: a name without one is the driver's own.
fn view(device: &DeviceObject, driver: &str) -> Value {
    let mut attributes = Map::new();
    for (name, attribute) in device.attributes.iter().flatten() {
        put(&mut attributes, driver, name, json!(attribute));
    }
    let mut capacity = Map::new();
    for (name, amount) in device.capacity.iter().flatten() {
        put(&mut capacity, driver, name, json!(amount.value));
    }
    json!({
        "driver": driver,
        "allowMultipleAllocations": false,
        "attributes": attributes,
        "capacity": capacity,
    })
}

fn put(all: &mut Map<String, Value>, driver: &str, name: &str, value: Value) {
    let (domain, name) = name.split_once('/').unwrap_or((driver, name));
    let domain = all.entry(domain).or_insert_with(|| json!({}));
    if let Some(domain) = domain.as_object_mut() {
        domain.insert(name.to_owned(), value);
    }
}

/// Names a pool: its driver, and its name there.
type PoolId = (String, String);

#[derive(Debug)]
struct Slice {
    pool: PoolId,
    generation: i64,
    /// Of how many slices the pool consists in this generation.
    of: i64,
    /// The node whose devices they are, if it is one alone.
    node: Option<String>,
    devices: Vec<Arc<Device>>,
}

/// All devices there are.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    slices: HashMap<String, Slice>,
    pools: BTreeMap<PoolId, BTreeSet<String>>,
    /// The pools that have something for one node alone, by its name.
    of_node: HashMap<String, BTreeSet<PoolId>>,
    /// The pools that have something for several nodes.
    shared: BTreeSet<PoolId>,
    numbers: u64,
}

/// What a node reaches of a pool.
pub(super) struct Reachable<'i> {
    /// Whether all of the pool's present generation is known.
    pub(super) complete: bool,
    pub(super) devices: Vec<&'i Arc<Device>>,
}

impl Inventory {
    pub(super) fn clear(&mut self) {
        *self = Self {
            // Numbers are never used twice.
            numbers: self.numbers,
            ..Self::default()
        };
    }

    pub(super) fn set(&mut self, slice: &ResourceSlice) {
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.remove(&name);
        let spec = &slice.spec;
        let pool = (spec.driver.clone(), spec.pool.name.clone());
        let reach = Reach::of_slice(spec);
        let (driver, pool_name): (Arc<str>, Arc<str>) =
            (spec.driver.as_str().into(), pool.1.as_str().into());
        let mut devices = Vec::new();
        for device in spec.devices.iter().flatten().filter(|it| is_whole(it)) {
            let own = || {
                Reach::of(
                    device.node_name.as_ref(),
                    device.node_selector.as_ref(),
                    device.all_nodes,
                )
            };
            let Some(reach) = reach.clone().or_else(own) else {
                continue;
            };
            let id = DeviceId {
                driver: Arc::clone(&driver),
                pool: Arc::clone(&pool_name),
                name: device.name.as_str().into(),
            };
            self.numbers += 1;
            devices.push(Arc::new(Device::of(device, spec, reach, id, self.numbers)));
        }
        let node = spec.node_name.clone().filter(|name| !name.is_empty());
        match &node {
            Some(node) => {
                let pools = self.of_node.entry(node.clone()).or_default();
                pools.insert(pool.clone());
            }
            None => {
                self.shared.insert(pool.clone());
            }
        }
        self.pools
            .entry(pool.clone())
            .or_default()
            .insert(name.clone());
        let slice = Slice {
            pool,
            generation: spec.pool.generation,
            of: spec.pool.resource_slice_count,
            node,
            devices,
        };
        self.slices.insert(name, slice);
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(slice) = self.slices.remove(name) else {
            return;
        };
        let Some(names) = self.pools.get_mut(&slice.pool) else {
            return;
        };
        names.remove(name);
        let mut others = names.iter().filter_map(|name| self.slices.get(name));
        let is_last = !others.any(|other| other.node == slice.node);
        if names.is_empty() {
            self.pools.remove(&slice.pool);
        }
        if !is_last {
            return;
        }
        match &slice.node {
            None => {
                self.shared.remove(&slice.pool);
            }
            Some(node) => {
                if let Some(pools) = self.of_node.get_mut(node) {
                    pools.remove(&slice.pool);
                    if pools.is_empty() {
                        self.of_node.remove(node);
                    }
                }
            }
        }
    }

    /// What the node reaches, pool by pool, always in the same order.
    pub(super) fn of(&self, node: &Facts) -> Vec<Reachable<'_>> {
        let own = self.of_node.get(&node.name).into_iter().flatten();
        let own: BTreeSet<_> = own.collect();
        let shared = self.shared.iter().filter(|pool| !own.contains(pool));
        let pools = own.iter().copied().chain(shared);
        pools.map(|pool| self.reachable(pool, node)).collect()
    }

    fn reachable(&self, pool: &PoolId, node: &Facts) -> Reachable<'_> {
        let names = self.pools.get(pool).into_iter().flatten();
        let all: Vec<_> = names.filter_map(|name| self.slices.get(name)).collect();
        let generation = all.iter().map(|slice| slice.generation).max();
        let current = || {
            let is_current = move |slice: &&&Slice| Some(slice.generation) == generation;
            all.iter().filter(is_current)
        };
        let count = i64::try_from(current().count()).unwrap_or(i64::MAX);
        let devices = current().flat_map(|slice| &slice.devices);
        Reachable {
            complete: current().all(|slice| slice.of == count),
            devices: devices
                .filter(|device| device.reach.includes(node))
                .collect(),
        }
    }
}
