use super::*;

fn read(body: &str) -> Result<Options, ConfigError> {
    Options::from_configuration(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}"))
}

fn problem(body: &str) -> String {
    read(body).unwrap_err().to_string()
}

#[test]
fn an_empty_configuration_is_the_default() {
    let options = read("leaderElection: {leaderElect: false}\nparallelism: 16").unwrap();
    assert_eq!(options.profiles, [Profile::named(DEFAULT_NAME)]);
    assert_eq!(options.first_backoff, Duration::from_secs(1));
}

#[test]
fn profiles_choose_and_weigh_plugins() {
    let options = read(
        "
podMaxBackoffSeconds: 20
percentageOfNodesToScore: 70
profiles:
- schedulerName: packing
  plugins:
    multiPoint:
      disabled: [{name: ImageLocality}, {name: DynamicResources}]
    score:
      disabled: [{name: PodTopologySpread}]
      enabled: [{name: NodeResourcesFit, weight: 7}]
    postFilter:
      disabled: [{name: '*'}]
    filter:
      disabled: [{name: NodePorts}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResourceGroups: [example.com]
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 9}
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
- schedulerName: default-scheduler
",
    )
    .unwrap();
    assert_eq!(options.percentage_of_nodes, Some(70));
    assert_eq!(options.longest_backoff, Duration::from_secs(20));
    let [packing, default] = &options.profiles[..] else {
        panic!("{:?}", options.profiles);
    };
    assert_eq!(*default, Profile::named(DEFAULT_NAME));
    assert_eq!(packing.fit, FitStrategy::MostAllocated);
    assert_eq!(packing.fit_resources, [("cpu".to_owned(), 3)]);
    assert!(packing.ignores("example.com/gpu") && !packing.ignores("cpu"));
    assert_eq!(packing.hard_affinity_weight, 9);
    assert!(!packing.preempts && default.preempts);
    assert!(!packing.filters.has(Plugin::NodePorts));
    assert!(packing.filters.has(Plugin::PodTopologySpread));
    assert_eq!(packing.scores.get(&Plugin::NodeResourcesFit), Some(&7));
    assert!(!packing.scores.contains_key(&Plugin::PodTopologySpread));
    assert!(!packing.scores.contains_key(&Plugin::ImageLocality));
    assert_eq!(
        packing.default_spread,
        [DefaultSpread {
            topology_key: "rack".to_owned(),
            max_skew: 2,
            hard: true
        }]
    );
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    assert_eq!(
        problem("extenders: [{urlPrefix: 'http://x'}]"),
        "extenders: this scheduler has no extenders"
    );
    let plugin = "profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]";
    assert_eq!(
        problem(plugin),
        "profiles[0].plugins.score.enabled[0].name: \"Mine\" is not a plugin of this scheduler"
    );
    assert!(problem("profile: []").contains("unknown field"));
    assert_eq!(
        problem("profiles: [{schedulerName: a}, {schedulerName: a}]"),
        "profiles[1].schedulerName: Duplicate value: \"a\""
    );
    let fit = |strategy: &str| {
        problem(&format!(
            "profiles: [{{pluginConfig: [{{name: NodeResourcesFit, args: {{scoringStrategy: {strategy}}}}}]}}]"
        ))
    };
    assert!(fit("{type: Best}").contains("Unsupported value"));
    assert!(fit("{type: RequestedToCapacityRatio}").contains("at least one point"));
    assert!(fit("{resources: [{name: cpu, weight: 0}]}").contains("not in valid range"));
    let other = Options::from_configuration("apiVersion: v1\nkind: Pod").unwrap_err();
    assert!(other.to_string().starts_with("this is Pod of v1"));
    let long = Options::from_configuration(&" ".repeat(LIMIT + 1)).unwrap_err();
    assert!(matches!(long, ConfigError::TooLong));
}
