//! One of several: work that only one process of many does at a time, agreed upon by a Lease.
//!
//! Enter at [`lead`]. The Leases and their fields are those of upstream's components, so that a mixed control plane agrees.
//! No process compares its clock with another's: a Lease has run out when it was *seen* unchanged for as long as it says that
//! it lasts, measured by the own monotonic clock. So steps of the wall clock neither give the lead away nor double it.

use std::{pin::pin, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use rand::RngExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{meta, record::Recorder};

/// Where the Leases of control planes are.
const NAMESPACE: &str = "kube-system";

/// How fast the lead passes on. The defaults are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long a Lease that is not renewed keeps others out. Default 15 s. It is how long nobody leads after a leader
    /// was cut off.
    pub lease: Duration,
    /// After how long without a renewal a leader gives up. Default 10 s. What is left until the Lease runs out is the time
    /// in which its work has to end, so it must be shorter than the Lease.
    pub renew_deadline: Duration,
    /// How often a leader renews and the others look. Default 2 s.
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Who wants to lead what.
#[derive(Debug, Clone)]
pub struct Election {
    /// The Lease's name: `kube-controller-manager`, `kube-scheduler`.
    pub name: &'static str,
    /// The candidate's name, which no other candidate has.
    pub identity: String,
    /// How fast the lead passes on.
    pub pace: Pace,
}

impl Election {
    /// An election with upstream's pace and an identity that begins with the host's name.
    pub fn new(name: &'static str, host: &str) -> Self {
        let unique: u128 = rand::rng().random();
        Self {
            name,
            identity: format!("{host}_{unique:032x}"),
            pace: Pace::default(),
        }
    }
}

/// Runs `work` whenever and for as long as this process leads, until `shutdown` or until the work returns by itself.
///
/// The token that `work` is given is cancelled when the lead is lost; work that has not ended when the Lease runs out is
/// dropped where it stands. On shutdown the Lease is given back, so that the next candidate need not wait.
pub async fn lead<W>(
    client: Client,
    election: Election,
    shutdown: CancellationToken,
    mut work: impl FnMut(CancellationToken) -> W,
) where
    W: Future<Output = ()>,
{
    let recorder = Recorder::start(client.clone(), election.name, shutdown.clone());
    let mut candidate = Candidate {
        api: Api::namespaced(client, NAMESPACE),
        election,
        seen: None,
        held: None,
    };
    loop {
        let Some(since) = shutdown.run_until_cancelled(candidate.take()).await else {
            return;
        };
        let (name, identity) = (candidate.election.name, &candidate.election.identity);
        info!(lease = name, identity, "leading");
        if let Some(lease) = &candidate.held {
            recorder.normal(lease, "LeaderElection", format!("{identity} became leader"));
        }
        let term = CancellationToken::new();
        let mut working = pin!(work(term.clone()));
        let ended = tokio::select! {
            () = &mut working => Ended::Work,
            () = shutdown.cancelled() => Ended::Shutdown,
            renewed = candidate.keep(since) => Ended::Lost { renewed },
        };
        term.cancel();
        match ended {
            Ended::Work => return candidate.release().await,
            Ended::Shutdown => {
                working.await;
                return candidate.release().await;
            }
            Ended::Lost { renewed } => {
                warn!(lease = candidate.election.name, "the lead is lost");
                let end = renewed + candidate.election.pace.lease;
                if tokio::time::timeout_at(end, working).await.is_err() {
                    warn!(
                        lease = candidate.election.name,
                        "cut off with work in flight: another may lead now"
                    );
                }
            }
        }
    }
}

/// Why a term ended.
enum Ended {
    /// There is no more to do.
    Work,
    Shutdown,
    /// The Lease could not be renewed since then.
    Lost {
        renewed: Instant,
    },
}

struct Candidate {
    api: Api<Lease>,
    election: Election,
    /// The version of the Lease that was seen last, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// The Lease as we wrote it last, if we did.
    held: Option<Lease>,
}

impl Candidate {
    /// Waits until the lead is ours. Gives the moment from which the Lease counts.
    async fn take(&mut self) -> Instant {
        self.held = None;
        loop {
            let asked = Instant::now();
            // A request that hangs must not keep us from ever asking again.
            let patience = self.election.pace.renew_deadline;
            match tokio::time::timeout(patience, self.attempt()).await {
                Ok(Ok(true)) => return asked,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => debug!(lease = self.election.name, %error, "will try again"),
            }
            // Not all at once.
            let jitter = rand::rng().random_range(1.0..1.2);
            tokio::time::sleep(self.election.pace.retry.mul_f64(jitter)).await;
        }
    }

    /// Renews until that has not worked for too long, or another leads. Gives the moment of the last renewal.
    async fn keep(&mut self, since: Instant) -> Instant {
        let mut renewed = since;
        loop {
            tokio::time::sleep(self.election.pace.retry).await;
            let asked = Instant::now();
            let deadline = renewed + self.election.pace.renew_deadline;
            match tokio::time::timeout_at(deadline, self.renew()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) | Err(_) => return renewed,
                Ok(Err(error)) => debug!(lease = self.election.name, %error, "not renewed"),
            }
            if Instant::now() >= deadline {
                return renewed;
            }
        }
    }

    /// Renews what we wrote last; if that has changed, by what it is now.
    async fn renew(&mut self) -> Result<bool, kube::Error> {
        if let Some(mut lease) = self.held.take() {
            if let Some(spec) = &mut lease.spec {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            match self.replace(&lease).await {
                Ok(lease) => {
                    self.held = Some(lease);
                    return Ok(true);
                }
                Err(error) if meta::is_conflict(&error) || meta::is_not_found(&error) => {}
                Err(error) => {
                    self.held = Some(lease);
                    return Err(error);
                }
            }
        }
        self.attempt().await
    }

    /// Takes the Lease if it is ours, or free, or nobody's for long enough.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(self.election.name).await? else {
            let lease = self.lease(None);
            return self.written(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let is_over = since.elapsed() >= Duration::from_secs(lasts);
        if !(holder.is_empty() || holder == self.election.identity || is_over) {
            return Ok(false);
        }
        let lease = self.lease(Some(lease));
        self.written(self.replace(&lease).await)
    }

    /// What became of writing the Lease: another may have been faster.
    fn written(&mut self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let params = PostParams::default();
        self.api.replace(self.election.name, &params, lease).await
    }

    /// The Lease in our name, after what it was.
    fn lease(&self, before: Option<Lease>) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let (metadata, old) = match before {
            Some(lease) => (lease.metadata, lease.spec.unwrap_or_default()),
            None => (
                ObjectMeta {
                    name: Some(self.election.name.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                },
                LeaseSpec::default(),
            ),
        };
        let is_new = metadata.resource_version.is_none();
        let stays = old.holder_identity.as_deref() == Some(&self.election.identity);
        let transitions = old.lease_transitions.unwrap_or(0);
        let seconds = i32::try_from(self.election.pace.lease.as_secs());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.election.identity.clone()),
                lease_duration_seconds: Some(seconds.unwrap_or(i32::MAX)),
                acquire_time: if stays { old.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(transitions + i32::from(!is_new && !stays)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets the next one lead at once.
    async fn release(&mut self) {
        let Some(mut lease) = self.held.take() else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let released = tokio::time::timeout(self.election.pace.retry, self.replace(&lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            debug!(lease = self.election.name, "not released: it will run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use http::Request;
    use kube::client::Body;

    use super::*;
    use crate::testing::api::FakeApi;

    const LEASES: &str = "apis/coordination.k8s.io/v1/leases";

    /// Counts how many lead, and how many ever did at once.
    #[derive(Default)]
    struct Leaders {
        now: AtomicUsize,
        most: AtomicUsize,
        terms: AtomicUsize,
    }

    /// One leader more, until it is dropped.
    struct Leading(Arc<Leaders>);

    impl Leading {
        fn begin(leaders: &Arc<Leaders>) -> Self {
            let now = leaders.now.fetch_add(1, Ordering::SeqCst) + 1;
            leaders.most.fetch_max(now, Ordering::SeqCst);
            leaders.terms.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(leaders))
        }
    }

    impl Drop for Leading {
        fn drop(&mut self) {
            self.0.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A candidate, and what cuts it off or stops it.
    struct Running {
        cut: Arc<AtomicBool>,
        shutdown: CancellationToken,
    }

    /// Starts a candidate whose work takes `drain` to end.
    fn start(api: &FakeApi, leaders: &Arc<Leaders>, name: &str, drain: Duration) -> Running {
        let running = Running {
            cut: Arc::default(),
            shutdown: CancellationToken::new(),
        };
        let (client, cut) = (api.client(), Arc::clone(&running.cut));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (client, cut) = (client.clone(), Arc::clone(&cut));
            async move {
                if cut.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                client.send(request).await
            }
        });
        let election = Election {
            name: "kube-scheduler",
            identity: name.to_owned(),
            pace: Pace::default(),
        };
        let (leaders, shutdown) = (Arc::clone(leaders), running.shutdown.clone());
        tokio::spawn(async move {
            let client = Client::new(service, "default");
            lead(client, election, shutdown, |term| {
                let leading = Leading::begin(&leaders);
                async move {
                    term.cancelled().await;
                    tokio::time::sleep(drain).await;
                    drop(leading);
                }
            })
            .await;
        });
        running
    }

    fn holder(api: &FakeApi) -> String {
        let lease = api.object(LEASES, NAMESPACE, "kube-scheduler");
        let holder = lease.map(|lease| lease["spec"]["holderIdentity"].clone());
        holder
            .and_then(|holder| holder.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_two_leaders_whoever_is_cut_off() {
        let api = FakeApi::new();
        let leaders = Arc::<Leaders>::default();
        // This one takes longer to end than it has time.
        let slow = start(&api, &leaders, "slow", Duration::from_mins(10));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let other = start(&api, &leaders, "other", Duration::from_secs(1));
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(holder(&api), "slow", "it renews as long as it can");
        for (cut, next) in [(&slow, "other"), (&other, "slow")] {
            cut.cut.store(true, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(9)).await;
            assert_eq!(leaders.now.load(Ordering::SeqCst), 1);
            tokio::time::sleep(Duration::from_secs(11)).await;
            assert_eq!(holder(&api), next);
            cut.cut.store(false, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert_eq!(holder(&api), next, "coming back is no reason to lead");
        }
        assert_eq!(leaders.most.load(Ordering::SeqCst), 1);
        assert_eq!(leaders.terms.load(Ordering::SeqCst), 3);
        let lease = api.object(LEASES, NAMESPACE, "kube-scheduler").unwrap();
        assert_eq!(lease["spec"]["leaseTransitions"], 2);
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_gives_the_lead_back() {
        let api = FakeApi::new();
        let leaders = Arc::<Leaders>::default();
        let first = start(&api, &leaders, "first", Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _second = start(&api, &leaders, "second", Duration::ZERO);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(holder(&api), "first");
        first.shutdown.cancel();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(holder(&api), "second");
        assert_eq!(leaders.most.load(Ordering::SeqCst), 1);
        api.until("an event", |api| {
            let message = "second became leader";
            let events = api.objects("api/v1/events");
            events.iter().any(|event| event["message"] == message)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_are_not_compared() {
        let api = FakeApi::new();
        // Renewed, by its holder's clock, in a future that is far away; and never again.
        let spec = serde_json::json!({
            "holderIdentity": "gone", "leaseDurationSeconds": 15, "leaseTransitions": 7,
            "renewTime": "2100-01-01T00:00:00.000000Z", "acquireTime": "2100-01-01T00:00:00.000000Z",
        });
        let metadata = serde_json::json!({ "namespace": NAMESPACE, "name": "kube-scheduler" });
        api.put(
            LEASES,
            &serde_json::json!({ "metadata": metadata, "spec": spec }),
        );
        let leaders = Arc::<Leaders>::default();
        let _running = start(&api, &leaders, "me", Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(14)).await;
        assert_eq!(holder(&api), "gone");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(holder(&api), "me");
    }
}
