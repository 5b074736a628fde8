//! Profiles: which plugins a scheduler of some name uses, and how they are set.

use std::collections::BTreeMap;

/// Everything that has a say in where a pod goes. The names are upstream's, but for [`Plugin::ImageKind`], which only
/// this scheduler has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Plugin {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    ImageKind,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultPreemption,
}

impl Plugin {
    /// All of them, in the order in which they are asked, each with the weight of its score. Those of weight 0 give none.
    pub(crate) const ALL: [(Self, &'static str, i64); 17] = [
        (Self::NodeUnschedulable, "NodeUnschedulable", 0),
        (Self::NodeName, "NodeName", 0),
        (Self::TaintToleration, "TaintToleration", 3),
        (Self::NodeAffinity, "NodeAffinity", 2),
        (Self::ImageKind, "VaquitaImageKind", 10),
        (Self::NodePorts, "NodePorts", 0),
        (Self::NodeResourcesFit, "NodeResourcesFit", 1),
        (Self::VolumeRestrictions, "VolumeRestrictions", 0),
        (Self::NodeVolumeLimits, "NodeVolumeLimits", 0),
        (Self::VolumeBinding, "VolumeBinding", 0),
        (Self::VolumeZone, "VolumeZone", 0),
        (Self::PodTopologySpread, "PodTopologySpread", 2),
        (Self::InterPodAffinity, "InterPodAffinity", 2),
        (Self::DynamicResources, "DynamicResources", 0),
        (
            Self::NodeResourcesBalancedAllocation,
            "NodeResourcesBalancedAllocation",
            1,
        ),
        (Self::ImageLocality, "ImageLocality", 1),
        (Self::DefaultPreemption, "DefaultPreemption", 0),
    ];

    /// Plugins of upstream that every profile has, whatever it says: they are how this scheduler works.
    pub(crate) const ALWAYS: [&'static str; 4] = [
        "PrioritySort",
        "SchedulingGates",
        "DefaultBinder",
        "DefaultQueueSort",
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(plugin, ..)| *plugin)
    }
}

/// Some of the plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(crate) struct PluginSet(u32);

impl PluginSet {
    pub(crate) fn all() -> Self {
        Plugin::ALL.iter().map(|(plugin, ..)| *plugin).collect()
    }

    pub(crate) fn has(self, plugin: Plugin) -> bool {
        self.0 & Self::bit(plugin) != 0
    }

    pub(crate) fn insert(&mut self, plugin: Plugin) {
        self.0 |= Self::bit(plugin);
    }

    pub(crate) fn insert_all(&mut self, plugins: &[Plugin]) {
        for plugin in plugins {
            self.insert(*plugin);
        }
    }

    /// Whether some plugin is in both.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn remove(&mut self, plugin: Plugin) {
        self.0 &= !Self::bit(plugin);
    }

    fn bit(plugin: Plugin) -> u32 {
        1 << plugin as u8
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        let mut set = Self::default();
        for plugin in plugins {
            set.insert(plugin);
        }
        set
    }
}

/// What `NodeResourcesFit` prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FitStrategy {
    /// Nodes of which much would stay free.
    LeastAllocated,
    /// Nodes of which little would stay free, so that others stay empty.
    MostAllocated,
    /// As this line through points says: used percentage to score from 0 to 10, rising percentages, at least one point.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A rule by which pods spread that say nothing of it themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultSpread {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    /// `DoNotSchedule` rather than `ScheduleAnyway`.
    pub(crate) hard: bool,
}

/// How pods that name one scheduler are placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What pods name in `spec.schedulerName`.
    pub(crate) scheduler_name: String,
    /// The plugins that keep pods off nodes.
    pub(crate) filters: PluginSet,
    /// The weights of the plugins that say which node is best; those that are absent have no say.
    pub(crate) scores: BTreeMap<Plugin, i64>,
    /// Whether pods may make room for themselves at the cost of less important ones.
    pub(crate) preempts: bool,
    pub(crate) fit: FitStrategy,
    /// The resources that `NodeResourcesFit` compares, with their weights.
    pub(crate) fit_resources: Vec<(String, i64)>,
    /// Extended resources that `NodeResourcesFit` passes over, by name and by group.
    pub(crate) ignored_resources: Vec<String>,
    pub(crate) ignored_groups: Vec<String>,
    /// The resources that `NodeResourcesBalancedAllocation` compares.
    pub(crate) balanced_resources: Vec<String>,
    /// How much a preferred place counts for it that a required affinity of a pod there points to the pod at hand.
    pub(crate) hard_affinity_weight: i64,
    /// Whether what the pods that are there prefer counts for nothing.
    pub(crate) ignore_others_preferences: bool,
    pub(crate) default_spread: Vec<DefaultSpread>,
    /// Whether those are the cluster's own, which a node without the labels in question does not fail for.
    pub(crate) system_spread: bool,
    /// The node affinity that every pod of this profile has besides its own.
    pub(crate) added_affinity: Option<k8s_openapi::api::core::v1::NodeAffinity>,
    /// Of how many percent of the nodes, and of how many at least, the candidates for preemption are.
    pub(crate) candidates: (usize, usize),
}

impl Profile {
    /// Upstream's defaults, under this name.
    pub(crate) fn named(scheduler_name: &str) -> Self {
        let even = ["cpu", "memory"];
        let scores = Plugin::ALL.iter().filter(|(.., weight)| *weight > 0);
        Self {
            scheduler_name: scheduler_name.to_owned(),
            filters: PluginSet::all(),
            scores: scores
                .map(|(plugin, _, weight)| (*plugin, *weight))
                .collect(),
            preempts: true,
            fit: FitStrategy::LeastAllocated,
            fit_resources: even.map(|name| (name.to_owned(), 1)).to_vec(),
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            balanced_resources: even.map(str::to_owned).to_vec(),
            hard_affinity_weight: 1,
            ignore_others_preferences: false,
            default_spread: system_spread(),
            system_spread: true,
            added_affinity: None,
            candidates: (10, 100),
        }
    }

    /// Whether the resource is left to others.
    pub(crate) fn ignores(&self, resource: &str) -> bool {
        self.ignored_resources.iter().any(|name| name == resource)
            || resource
                .split_once('/')
                .is_some_and(|(group, _)| self.ignored_groups.iter().any(|it| it == group))
    }
}

/// What spreads pods where neither they nor the profile say anything: over nodes a little, over zones a little.
pub(crate) fn system_spread() -> Vec<DefaultSpread> {
    let soft = |topology_key: &str, max_skew| DefaultSpread {
        topology_key: topology_key.to_owned(),
        max_skew,
        hard: false,
    };
    vec![
        soft("kubernetes.io/hostname", 3),
        soft("topology.kubernetes.io/zone", 5),
    ]
}
