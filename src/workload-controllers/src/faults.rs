//! Controllers that are killed at random points, over watches that tell all twice, late and in pieces.
//!
//! Whatever the point: afterwards there is no pod too many and none is forgotten, and at no time in between are there more
//! than was promised. Each test runs a number of histories, each after a seed that is printed. The clock is set at random
//! points, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use tokio::time::Instant;
use vaquita_reconcile::{Clock, Context, Options, testing::api::FakeApi};

const PODS: &str = "api/v1/pods";
const CONTROLLERS: &str = "api/v1/replicationcontrollers";
const DEPLOYMENTS: &str = "apis/apps/v1/deployments";
const SETS: &str = "apis/apps/v1/statefulsets";
const JOBS: &str = "apis/batch/v1/jobs";
const CRON_JOBS: &str = "apis/batch/v1/cronjobs";
/// How many histories each test runs.
const HISTORIES: u64 = 8;
/// How many things happen in each.
const EVENTS: usize = 40;

/// Random numbers from a seed, the same on every machine (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// All controllers, killed and started again as a test likes.
struct World {
    api: FakeApi,
    random: Random,
    begin: Instant,
    /// By how many seconds the clock is ahead.
    ahead: Arc<AtomicI64>,
    running: Option<(JoinHandle<()>, CancellationToken)>,
}

impl World {
    /// A world after this seed, with controllers at work and somebody who runs pods.
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let mut random = Random(seed);
        let api = FakeApi::unsteady(Duration::from_millis(random.below(400)));
        let mut world = Self {
            api,
            random,
            begin: Instant::now(),
            ahead: Arc::default(),
            running: None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let (begin, ahead) = (self.begin, Arc::clone(&self.ahead));
        let options = Options {
            clock: Clock::new(move || time(begin, &ahead)),
            ..Options::default()
        };
        let context = Context::new(self.api.client(), options, shutdown.clone());
        let running = tokio::spawn(crate::run(context));
        self.running = Some((running, shutdown));
    }

    /// Drops the controllers wherever they are, with all that they remember.
    async fn kill(&mut self) {
        if let Some((running, shutdown)) = self.running.take() {
            running.abort();
            shutdown.cancel();
            let _ = running.await;
        }
    }

    async fn pass(&mut self) {
        let millis = self.random.below(250);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// What the controllers' clock says.
    fn now(&self) -> Timestamp {
        time(self.begin, &self.ahead)
    }

    /// Sets the clock by up to an hour, forth or back.
    fn set_clock(&mut self) {
        let hour = 3600;
        let by = i64::try_from(self.random.below(2 * hour)).unwrap() - 3600;
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// Lets time pass, and kills the controllers and sets their clock now and then.
    async fn happen(&mut self) {
        self.pass().await;
        if self.random.below(5) == 0 {
            self.set_clock();
        }
        if self.random.below(3) == 0 {
            self.kill().await;
            self.pass().await;
            self.start();
        }
    }

    /// One pod that waits becomes ready, or comes to its end if it is of a job.
    fn run_a_pod(&mut self) {
        let mut waiting: Vec<_> = self.api.objects(PODS);
        waiting.retain(|pod| pod["status"].is_null());
        if waiting.is_empty() {
            return;
        }
        let chosen = self.random.below(waiting.len() as u64);
        run(&self.api, &waiting[usize::try_from(chosen).unwrap()]);
    }

    /// From now on every pod runs.
    fn run_all_pods(&self) {
        let api = self.api.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                for pod in api.objects(PODS) {
                    if pod["status"].is_null() {
                        run(&api, &pod);
                    }
                }
            }
        });
    }
}

fn time(begin: Instant, ahead: &AtomicI64) -> Timestamp {
    let noon: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
    noon + begin.elapsed() + SignedDuration::from_secs(ahead.load(Ordering::Relaxed))
}

fn run(api: &FakeApi, pod: &Value) {
    let ends = pod["metadata"]["ownerReferences"][0]["kind"] == "Job";
    let name = pod["metadata"]["name"].as_str().unwrap();
    api.edit(PODS, "shop", name, |pod| {
        pod["status"] = if ends {
            json!({ "phase": "Succeeded" })
        } else {
            let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z" });
            json!({ "phase": "Running", "conditions": [ready] })
        };
    });
}

fn workload(kind: &str, version: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": { "namespace": "shop", "name": "x", "uid": "x-uid", "generation": 1 },
        "spec": {
            "selector": { "matchLabels": { "app": "x" } },
            "template": {
                "metadata": { "labels": { "app": "x" } },
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "v0" }] },
            },
        },
    });
    let all = object["spec"].as_object_mut().unwrap();
    all.extend(spec.as_object().unwrap().clone());
    object
}

fn edit(api: &FakeApi, path: &str, change: impl FnOnce(&mut Value)) {
    api.edit(path, "shop", "x", |object| {
        change(&mut object["spec"]);
        let generation = object["metadata"]["generation"].as_i64().unwrap();
        object["metadata"]["generation"] = json!(generation + 1);
    });
}

fn set_image(api: &FakeApi, path: &str, image: &str) {
    edit(api, path, |spec| {
        spec["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

/// The images of all pods.
fn images(api: &FakeApi) -> Vec<Value> {
    let pods = api.objects(PODS).into_iter();
    pods.map(|pod| pod["spec"]["containers"][0]["image"].clone())
        .collect()
}

fn status_of(api: &FakeApi, path: &str) -> Value {
    api.object(path, "shop", "x").unwrap()["status"].clone()
}

fn creations(api: &FakeApi) -> usize {
    let writes = api.writes();
    writes
        .iter()
        .filter(|write| *write == "POST api/v1/pods")
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_replication_controller_never_has_a_pod_too_many() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let api = world.api.clone();
        let mut wanted = 1 + world.random.below(40);
        let spec = json!({ "replicas": wanted, "selector": { "app": "x" } });
        api.put(CONTROLLERS, &workload("ReplicationController", "v1", &spec));
        for _ in 0..EVENTS {
            world.happen().await;
            world.run_a_pod();
            assert!(api.objects(PODS).len() as u64 <= wanted, "seed {seed}");
        }
        // All that were made are there: none was made twice and given up again.
        api.until("all there", |api| api.objects(PODS).len() as u64 == wanted)
            .await;
        assert_eq!(creations(&api) as u64, wanted, "seed {seed}");
        for _ in 0..4 {
            wanted = world.random.below(40);
            edit(&api, CONTROLLERS, |spec| spec["replicas"] = json!(wanted));
            for _ in 0..6 {
                world.happen().await;
                world.run_a_pod();
            }
        }
        world.run_all_pods();
        api.until("as many as wanted", |api| {
            api.objects(PODS).len() as u64 == wanted
                && status_of(api, CONTROLLERS)["replicas"] == json!(wanted)
        })
        .await;
        api.settle().await;
        assert_eq!(api.objects(PODS).len() as u64, wanted, "seed {seed}");
        world.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_keeps_within_its_surge_and_ends_with_the_last_image() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let api = world.api.clone();
        let wanted = 1 + world.random.below(9);
        let rolling = json!({ "maxSurge": 1, "maxUnavailable": 1 });
        let spec = json!({
            "replicas": wanted,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
        });
        api.put(DEPLOYMENTS, &workload("Deployment", "apps/v1", &spec));
        let mut image = "v0".to_owned();
        for _ in 0..EVENTS {
            world.happen().await;
            world.run_a_pod();
            if world.random.below(8) == 0 {
                image = format!("v{}", world.random.below(4));
                set_image(&api, DEPLOYMENTS, &image);
            }
            assert!(api.objects(PODS).len() as u64 <= wanted + 1, "seed {seed}");
        }
        world.run_all_pods();
        api.until("the last image", |api| {
            let status = status_of(api, DEPLOYMENTS);
            let all = images(api);
            all.len() as u64 == wanted
                && all.iter().all(|known| *known == image)
                && status["availableReplicas"] == json!(wanted)
                && status["replicas"] == json!(wanted)
        })
        .await;
        api.settle().await;
        assert_eq!(
            images(&api),
            vec![json!(image); usize::try_from(wanted).unwrap()]
        );
        world.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_keeps_its_order_and_ends_with_the_last_image() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let api = world.api.clone();
        let disturbed = seed % 2 == 1;
        let mut wanted = 1 + world.random.below(5);
        let rolling = json!({ "partition": 0, "maxUnavailable": 1 });
        let spec = json!({
            "replicas": wanted,
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
        });
        api.put(SETS, &workload("StatefulSet", "apps/v1", &spec));
        let mut image = "v0".to_owned();
        for _ in 0..EVENTS {
            world.happen().await;
            world.run_a_pod();
            // Ordered: no more than one of them is on its way, unless others interfere.
            let pods = api.objects(PODS);
            let starting = pods.iter().filter(|pod| pod["status"].is_null()).count();
            assert!(starting <= 1 || disturbed, "seed {seed}");
            match world.random.below(12) {
                0 => {
                    image = format!("v{}", world.random.below(4));
                    set_image(&api, SETS, &image);
                }
                1 => {
                    wanted = world.random.below(6);
                    edit(&api, SETS, |spec| spec["replicas"] = json!(wanted));
                }
                2 if disturbed && !pods.is_empty() => {
                    let chosen = world.random.below(pods.len() as u64);
                    let pod = &pods[usize::try_from(chosen).unwrap()];
                    api.remove(PODS, "shop", pod["metadata"]["name"].as_str().unwrap());
                }
                _ => {}
            }
        }
        world.run_all_pods();
        let name = |number: u64| json!(format!("x-{number}"));
        let expected: Vec<_> = (0..wanted).map(name).collect();
        api.until("the last image", |api| {
            let names: Vec<_> = api
                .objects(PODS)
                .iter()
                .map(|pod| pod["metadata"]["name"].clone())
                .collect();
            let status = status_of(api, SETS);
            names == expected
                && images(api).iter().all(|known| *known == image)
                && status["replicas"] == json!(wanted)
                && status["currentRevision"] == status["updateRevision"]
        })
        .await;
        world.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_counts_each_pod_once() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let api = world.api.clone();
        let indexed = world.random.below(2) == 0;
        let completions = 1 + world.random.below(20);
        let spec = json!({
            "completions": completions,
            "parallelism": 1 + world.random.below(6),
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
            "backoffLimit": 0,
        });
        api.put(JOBS, &workload("Job", "batch/v1", &spec));
        for _ in 0..EVENTS {
            world.happen().await;
            world.run_a_pod();
            assert!(creations(&api) as u64 <= completions, "seed {seed}");
        }
        world.run_all_pods();
        api.until("the end", |api| {
            !status_of(api, JOBS)["completionTime"].is_null()
        })
        .await;
        api.settle().await;
        let status = status_of(&api, JOBS);
        assert_eq!(status["succeeded"], json!(completions), "seed {seed}");
        assert_eq!(creations(&api) as u64, completions, "seed {seed}");
        assert!(status["failed"].is_null() && status["active"].is_null());
        let held = |pod: &Value| {
            !pod["metadata"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty)
        };
        assert!(!api.objects(PODS).iter().any(held), "seed {seed}");
        world.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_goes_on_however_its_clock_is_set() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let api = world.api.clone();
        let template = json!({ "spec": { "template": { "spec": { "containers": [] } } } });
        api.put(
            CRON_JOBS,
            &json!({
                "apiVersion": "batch/v1", "kind": "CronJob",
                "metadata": {
                    "namespace": "shop", "name": "x", "uid": "x-uid", "creationTimestamp": world.now(),
                },
                "spec": {
                    "schedule": "*/10 * * * *", "timeZone": "Etc/UTC", "concurrencyPolicy": "Allow",
                    "jobTemplate": template,
                },
            }),
        );
        let (mut last, mut latest) = (Timestamp::MIN, world.now());
        let scheduled = |object: &Value| {
            object["status"]["lastScheduleTime"]
                .as_str()
                .map(str::to_owned)
        };
        for _ in 0..EVENTS {
            world.happen().await;
            let seconds = world.random.below(600);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            latest = latest.max(world.now());
            if let Some(at) = scheduled(&api.object(CRON_JOBS, "shop", "x").unwrap()) {
                let at: Timestamp = at.parse().unwrap();
                assert!(at >= last, "seed {seed}: a run is due only once");
                assert!(at <= latest, "seed {seed}: it was not time yet");
                last = at;
            }
        }
        let jobs = api.objects(JOBS);
        assert!(!jobs.is_empty(), "seed {seed}");
        let behind = latest.duration_since(world.now()).as_secs();
        world.ahead.fetch_add(behind, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_mins(20)).await;
        assert!(
            api.objects(JOBS).len() > jobs.len(),
            "seed {seed}: it goes on"
        );
        world.kill().await;
    }
}
