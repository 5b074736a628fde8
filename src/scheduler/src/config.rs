//! `KubeSchedulerConfiguration` v1, as far as this scheduler has what it is about.
//!
//! What cannot be honoured is refused rather than passed over, but for what only concerns the process that upstream's
//! scheduler is (its connection, its leases, its own metrics).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    DEFAULT_NAME, Options,
    profile::{DefaultSpread, FitStrategy, Plugin, PluginSet, Profile, system_spread},
};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// The longest configuration that is read, in bytes.
const LIMIT: usize = 1024 * 1024;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is larger than any that makes sense.
    #[error("the configuration is longer than {LIMIT} bytes")]
    TooLong,
    /// It is not YAML or JSON of the right shape.
    #[error("the configuration cannot be read: {0}")]
    Malformed(#[from] serde_yaml::Error),
    /// It is something else.
    #[error("this is {found}, not {KIND} of {API_VERSION}")]
    OtherKind {
        /// What it says that it is.
        found: String,
    },
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// Where.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<u8>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<ProfileDocument>,
    #[serde(default)]
    extenders: Vec<Value>,
    // What is about upstream's process.
    #[serde(rename = "parallelism")]
    _parallelism: Option<u32>,
    #[serde(rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProfileDocument {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<u8>,
    plugins: PluginsDocument,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PluginsDocument {
    multi_point: Choice,
    filter: Choice,
    post_filter: Choice,
    score: Choice,
    // These have no plugins of their own here: what upstream does at these points belongs to those above.
    pre_enqueue: Choice,
    queue_sort: Choice,
    pre_filter: Choice,
    pre_score: Choice,
    reserve: Choice,
    permit: Choice,
    pre_bind: Choice,
    bind: Choice,
    post_bind: Choice,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Choice {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl Options {
    /// Reads a `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`, as YAML or JSON.
    pub fn from_configuration(text: &str) -> Result<Self, ConfigError> {
        if text.len() > LIMIT {
            return Err(ConfigError::TooLong);
        }
        let document: Document = serde_yaml::from_str(text)?;
        if document.api_version != API_VERSION || document.kind != KIND {
            return Err(ConfigError::OtherKind {
                found: format!("{} of {}", document.kind, document.api_version),
            });
        }
        if !document.extenders.is_empty() {
            return Err(invalid("extenders", "this scheduler has no extenders"));
        }
        let mut options = Self::default();
        let seconds = |seconds: Option<u64>, default| seconds.map_or(default, Duration::from_secs);
        options.first_backoff =
            seconds(document.pod_initial_backoff_seconds, options.first_backoff);
        options.longest_backoff =
            seconds(document.pod_max_backoff_seconds, options.longest_backoff);
        if options.first_backoff.is_zero() || options.longest_backoff < options.first_backoff {
            let problem = "must be at least podInitialBackoffSeconds, and that at least 1";
            return Err(invalid("podMaxBackoffSeconds", problem));
        }
        let mut percentage = document.percentage_of_nodes_to_score;
        if !document.profiles.is_empty() {
            options.profiles.clear();
        }
        for (index, profile) in document.profiles.into_iter().enumerate() {
            percentage = profile.percentage_of_nodes_to_score.or(percentage);
            let profile = read_profile(profile, &format!("profiles[{index}]"))?;
            let name = &profile.scheduler_name;
            if options.profiles.iter().any(|it| it.scheduler_name == *name) {
                let field = format!("profiles[{index}].schedulerName");
                return Err(invalid(field, format!("Duplicate value: {name:?}")));
            }
            options.profiles.push(profile);
        }
        if percentage.is_some_and(|percentage| percentage > 100) {
            let problem = "must be from 0 to 100";
            return Err(invalid("percentageOfNodesToScore", problem));
        }
        options.percentage_of_nodes = percentage.map(usize::from).filter(|it| *it > 0);
        Ok(options)
    }
}

fn read_profile(document: ProfileDocument, at: &str) -> Result<Profile, ConfigError> {
    let name = document.scheduler_name.as_deref().unwrap_or(DEFAULT_NAME);
    if name.is_empty() {
        return Err(invalid(format!("{at}.schedulerName"), "Required value"));
    }
    let mut profile = Profile::named(name);
    choose_plugins(&mut profile, &document.plugins, &format!("{at}.plugins"))?;
    for (index, config) in document.plugin_config.into_iter().enumerate() {
        let at = format!("{at}.pluginConfig[{index}]");
        set_plugin(&mut profile, &config.name, config.args, &at)?;
    }
    Ok(profile)
}

fn choose_plugins(
    profile: &mut Profile,
    plugins: &PluginsDocument,
    at: &str,
) -> Result<(), ConfigError> {
    let mut filters = profile.filters;
    let mut scores = profile.scores.clone();
    let mut preempting: PluginSet = [Plugin::DefaultPreemption].into_iter().collect();
    let everywhere = Chosen::read(&plugins.multi_point, &format!("{at}.multiPoint"))?;
    for set in [&mut filters, &mut preempting] {
        everywhere.apply(set);
    }
    everywhere.weigh(&mut scores);
    Chosen::read(&plugins.filter, &format!("{at}.filter"))?.apply(&mut filters);
    Chosen::read(&plugins.post_filter, &format!("{at}.postFilter"))?.apply(&mut preempting);
    Chosen::read(&plugins.score, &format!("{at}.score"))?.weigh(&mut scores);
    for (point, choice) in [
        ("preEnqueue", &plugins.pre_enqueue),
        ("queueSort", &plugins.queue_sort),
        ("preFilter", &plugins.pre_filter),
        ("preScore", &plugins.pre_score),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
    ] {
        // Checked for unknown names, and that is all: they go with what they prepare.
        Chosen::read(choice, &format!("{at}.{point}"))?;
    }
    profile.filters = filters;
    profile.scores = scores;
    profile.preempts = preempting.has(Plugin::DefaultPreemption);
    Ok(())
}

/// What one extension point says of plugins.
struct Chosen {
    none_first: bool,
    disabled: Vec<Plugin>,
    enabled: Vec<(Plugin, Option<i64>)>,
}

impl Chosen {
    fn read(choice: &Choice, at: &str) -> Result<Self, ConfigError> {
        let mut chosen = Self {
            none_first: choice.disabled.iter().any(|it| it.name == "*"),
            // What is not there is as good as disabled.
            disabled: choice
                .disabled
                .iter()
                .filter_map(|it| Plugin::named(&it.name))
                .collect(),
            enabled: Vec::new(),
        };
        for (index, named) in choice.enabled.iter().enumerate() {
            let at = format!("{at}.enabled[{index}]");
            if named
                .weight
                .is_some_and(|weight| !(0..=100).contains(&weight))
            {
                return Err(invalid(format!("{at}.weight"), "must be from 0 to 100"));
            }
            match Plugin::named(&named.name) {
                Some(plugin) => {
                    let weight = named.weight.filter(|weight| *weight > 0);
                    chosen.enabled.push((plugin, weight));
                }
                None if Plugin::ALWAYS.contains(&named.name.as_str()) => {}
                None => {
                    let problem = format!("{:?} is not a plugin of this scheduler", named.name);
                    return Err(invalid(format!("{at}.name"), problem));
                }
            }
        }
        Ok(chosen)
    }

    fn apply(&self, set: &mut PluginSet) {
        if self.none_first {
            *set = PluginSet::default();
        }
        for plugin in &self.disabled {
            set.remove(*plugin);
        }
        for (plugin, _) in &self.enabled {
            set.insert(*plugin);
        }
    }

    fn weigh(&self, scores: &mut BTreeMap<Plugin, i64>) {
        if self.none_first {
            scores.clear();
        }
        for plugin in &self.disabled {
            scores.remove(plugin);
        }
        for (plugin, weight) in &self.enabled {
            let default = Profile::named(DEFAULT_NAME).scores.get(plugin).copied();
            // Those that never give points cannot be made to.
            if let Some(default) = default {
                scores.insert(*plugin, weight.unwrap_or(default));
            }
        }
    }
}

fn set_plugin(profile: &mut Profile, name: &str, args: Value, at: &str) -> Result<(), ConfigError> {
    match name {
        "NodeResourcesFit" => set_fit(profile, parse(args, at)?, at),
        "NodeResourcesBalancedAllocation" => {
            let args: BalancedArgs = parse(args, at)?;
            if let Some(resources) = args.resources {
                let names = resources.into_iter().map(|resource| resource.name);
                profile.balanced_resources = names.collect();
            }
            Ok(())
        }
        "PodTopologySpread" => set_spread(profile, parse(args, at)?, at),
        "InterPodAffinity" => {
            let args: AffinityArgs = parse(args, at)?;
            if let Some(weight) = args.hard_pod_affinity_weight {
                if !(0..=100).contains(&weight) {
                    let field = format!("{at}.args.hardPodAffinityWeight");
                    return Err(invalid(field, "not in valid range [0-100]"));
                }
                profile.hard_affinity_weight = weight;
            }
            profile.ignore_others_preferences = args.ignore_preferred_terms_of_existing_pods;
            Ok(())
        }
        "NodeAffinity" => {
            let args: NodeAffinityArgs = parse(args, at)?;
            profile.added_affinity = args.added_affinity;
            Ok(())
        }
        "DefaultPreemption" => {
            let args: PreemptionArgs = parse(args, at)?;
            let (percent, least) = profile.candidates;
            let percent = args.min_candidate_nodes_percentage.unwrap_or(percent);
            if percent > 100 {
                let field = format!("{at}.args.minCandidateNodesPercentage");
                return Err(invalid(field, "not in valid range [0, 100]"));
            }
            let least = args.min_candidate_nodes_absolute.unwrap_or(least);
            profile.candidates = (percent, least);
            Ok(())
        }
        other => {
            let problem = format!("{other:?} takes no arguments in this scheduler");
            Err(invalid(format!("{at}.name"), problem))
        }
    }
}

fn parse<T: DeserializeOwned>(args: Value, at: &str) -> Result<T, ConfigError> {
    let mut args = if args.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        args
    };
    if let Some(fields) = args.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    serde_json::from_value(args).map_err(|error| invalid(format!("{at}.args"), error.to_string()))
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<Strategy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Strategy {
    r#type: Option<String>,
    resources: Option<Vec<WeighedResource>>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeighedResource {
    name: String,
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BalancedArgs {
    resources: Option<Vec<WeighedResource>>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpreadArgs {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

fn set_fit(profile: &mut Profile, args: FitArgs, at: &str) -> Result<(), ConfigError> {
    profile.ignored_resources = args.ignored_resources;
    profile.ignored_groups = args.ignored_resource_groups;
    let Some(strategy) = args.scoring_strategy else {
        return Ok(());
    };
    let at = format!("{at}.args.scoringStrategy");
    for resource in strategy.resources.iter().flatten() {
        let weight = resource.weight.unwrap_or(1);
        if !(1..=100).contains(&weight) {
            let problem = format!("weight of {} not in valid range [1-100]", resource.name);
            return Err(invalid(format!("{at}.resources"), problem));
        }
    }
    if let Some(resources) = strategy.resources {
        let weighed = resources
            .into_iter()
            .map(|it| (it.name, it.weight.unwrap_or(1)));
        profile.fit_resources = weighed.collect();
    }
    profile.fit = match strategy.r#type.as_deref() {
        None | Some("LeastAllocated") => FitStrategy::LeastAllocated,
        Some("MostAllocated") => FitStrategy::MostAllocated,
        Some("RequestedToCapacityRatio") => {
            let ratio = strategy.requested_to_capacity_ratio;
            FitStrategy::RequestedToCapacityRatio(shape(ratio, &at)?)
        }
        Some(other) => {
            let problem = format!("Unsupported value: {other:?}");
            return Err(invalid(format!("{at}.type"), problem));
        }
    };
    Ok(())
}

fn shape(ratio: Option<Ratio>, at: &str) -> Result<Vec<(i64, i64)>, ConfigError> {
    let at = format!("{at}.requestedToCapacityRatio.shape");
    let points = ratio.map(|ratio| ratio.shape).unwrap_or_default();
    if points.is_empty() {
        return Err(invalid(at, "at least one point must be specified"));
    }
    let rises = points
        .windows(2)
        .all(|pair| pair[0].utilization < pair[1].utilization);
    let is_within =
        |point: &Point| (0..=100).contains(&point.utilization) && (0..=10).contains(&point.score);
    if !rises || !points.iter().all(is_within) {
        let problem = "utilization must rise and be from 0 to 100, score be from 0 to 10";
        return Err(invalid(at, problem));
    }
    Ok(points.iter().map(|it| (it.utilization, it.score)).collect())
}

fn set_spread(profile: &mut Profile, args: SpreadArgs, at: &str) -> Result<(), ConfigError> {
    match args.defaulting_type.as_deref() {
        None | Some("System") if args.default_constraints.is_empty() => {
            profile.default_spread = system_spread();
            profile.system_spread = true;
            return Ok(());
        }
        Some("System") => {
            let problem = "when .defaultingType is System, .defaultConstraints must be empty";
            return Err(invalid(format!("{at}.args.defaultingType"), problem));
        }
        None | Some("List") => {}
        Some(other) => {
            let problem = format!("Unsupported value: {other:?}");
            return Err(invalid(format!("{at}.args.defaultingType"), problem));
        }
    }
    let mut constraints = Vec::new();
    for (index, constraint) in args.default_constraints.into_iter().enumerate() {
        let at = format!("{at}.args.defaultConstraints[{index}]");
        if constraint.label_selector.is_some() {
            let problem = "constraint must not define a selector, as they deduced for each pod";
            return Err(invalid(format!("{at}.labelSelector"), problem));
        }
        if constraint.max_skew < 1 || constraint.topology_key.is_empty() {
            return Err(invalid(
                at,
                "maxSkew must be greater than zero, topologyKey be given",
            ));
        }
        constraints.push(DefaultSpread {
            topology_key: constraint.topology_key,
            max_skew: i64::from(constraint.max_skew),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
        });
    }
    profile.default_spread = constraints;
    profile.system_spread = false;
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
