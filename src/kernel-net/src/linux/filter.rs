//! Keeps the kernel's packet filter as the fabric wants it: one table, replaced whole whenever Services or policies change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _, process::Command, sync::watch, task::JoinHandle, time::timeout,
};
use vaquita_net::Fabric;

use super::rules;
use crate::{FilterError, KernelFilterConfig};

/// The least time between two changes of the table: the first of many is heeded at once, the others together.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether somebody else has removed what is ours, and a failure is tried again.
const CHECK: Duration = Duration::from_secs(30);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is there if the kernel can show packets of bridges to its filter.
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// Where commands are that only root uses, if the way to them is not known.
const PLACES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What does for containers in the kernel what the fabric does for its own pods. When it is dropped, its rules are gone;
/// if the process ends otherwise, they stay as they are until the next one replaces them.
#[derive(Debug)]
pub struct KernelFilter {
    fabric: Fabric,
    config: Arc<KernelFilterConfig>,
    follower: JoinHandle<()>,
}

impl KernelFilter {
    /// Makes the table, and has it follow the fabric from then on.
    pub async fn start(fabric: &Fabric, config: KernelFilterConfig) -> Result<Self, FilterError> {
        let config = Arc::new(config);
        let (heeded, receiver) = watch::channel(0);
        let mut keeper = Keeper {
            fabric: fabric.clone(),
            config: config.clone(),
            table: String::new(),
            is_shown: None,
            heeded,
        };
        keeper.show_bridged().await;
        let mut changes = fabric.changes();
        keeper.heed(&mut changes).await?;
        keeper.let_in().await;
        fabric.set_follower(Some(receiver));
        Ok(Self {
            fabric: fabric.clone(),
            config,
            follower: tokio::spawn(keeper.follow(changes)),
        })
    }

    /// Removes the rules when no change to them is on its way any more. (To drop it is the same, but that the latter may
    /// come later than the removal.)
    pub async fn close(mut self) {
        self.follower.abort();
        // Whether it had ended before makes no difference.
        let _ended = (&mut self.follower).await;
    }

    /// Removes what an earlier process has left under this name.
    pub async fn sweep(table: &str) -> Result<(), FilterError> {
        nft(&rules::nothing(table)).await
    }
}

impl Drop for KernelFilter {
    fn drop(&mut self) {
        self.follower.abort();
        self.fabric.set_follower(None);
        let text = rules::nothing(&self.config.table);
        let removed = std::process::Command::new(program("nft"))
            .arg(text.replace('\n', "; "))
            .stdin(Stdio::null())
            .output();
        complain(
            removed
                .map_err(FilterError::Run)
                .and_then(|output| check(&output)),
        );
        // Another engine than that of the bridge may be gone with its chain.
        let _absent = std::process::Command::new(program("iptables"))
            .args(let_in(&self.config, "-D"))
            .stdin(Stdio::null())
            .output();
    }
}

fn complain(done: Result<(), FilterError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "the kernel's packet filter cannot be changed");
    }
}

struct Keeper {
    fabric: Fabric,
    config: Arc<KernelFilterConfig>,
    /// As it was made last.
    table: String,
    /// Whether the kernel shows what it passes from one container to another, if that is known.
    is_shown: Option<bool>,
    heeded: watch::Sender<u64>,
}

impl Keeper {
    async fn follow(mut self, mut changes: watch::Receiver<u64>) {
        loop {
            tokio::select! {
                told = changes.changed() => {
                    if told.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(CHECK) => self.look().await,
            }
            complain(self.heed(&mut changes).await);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes the table what it is to be, if it is not.
    async fn heed(&mut self, changes: &mut watch::Receiver<u64>) -> Result<(), FilterError> {
        let so_far = *changes.borrow_and_update();
        let table = rules::table(&self.fabric, &self.config, self.is_shown == Some(true));
        if table != self.table {
            nft(&table).await?;
            self.table = table;
        }
        self.heeded.send_replace(so_far);
        Ok(())
    }

    /// Looks whether all is still there.
    async fn look(&mut self) {
        self.show_bridged().await;
        self.let_in().await;
        let list = ["list", "table", "inet", &self.config.table];
        let listed = run(Command::new(program("nft")).args(list)).await;
        if listed.is_ok_and(|output| !output.status.success()) {
            self.table.clear();
        }
    }

    /// Has the kernel show the filter what it passes from one container to another, if it can.
    async fn show_bridged(&mut self) {
        if self.is_shown.is_none() && !Path::new(BRIDGED).exists() {
            // Whether that helps is seen below.
            let _seen = run(Command::new(program("modprobe")).arg("br_netfilter")).await;
        }
        let bridge = &self.config.bridge;
        let switch = format!("/sys/class/net/{bridge}/bridge/nf_call_iptables");
        let shown = fs::metadata(BRIDGED).and_then(|_| fs::write(switch, "1"));
        let is_shown = Some(shown.is_ok());
        if let Err(error) = shown
            && self.is_shown != is_shown
        {
            tracing::warn!(%error, bridge, "policies do not hold between containers, whose packets the kernel does not show");
        }
        self.is_shown = is_shown;
    }

    /// Lets modules connect to containers: an engine that keeps a filter of its own drops what comes from elsewhere, and
    /// has a chain for who thinks otherwise.
    async fn let_in(&self) {
        let ask = run(Command::new(program("iptables")).args(let_in(&self.config, "-C"))).await;
        if ask.is_ok_and(|output| output.status.success()) {
            return;
        }
        let add = run(Command::new(program("iptables")).args(let_in(&self.config, "-I"))).await;
        if let Err(error) = add.and_then(|output| check(&output)) {
            // Without such a filter there is no such chain, and nothing to do.
            tracing::debug!(%error, "the engine keeps no filter that could be told");
        }
    }
}

fn let_in<'a>(config: &'a KernelFilterConfig, what: &'a str) -> [&'a str; 10] {
    let KernelFilterConfig { device, bridge, .. } = config;
    [
        "-w",
        "5",
        what,
        "DOCKER-USER",
        "-i",
        device,
        "-o",
        bridge,
        "-j",
        "ACCEPT",
    ]
}

fn program(name: &str) -> PathBuf {
    let known = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&known).chain(PLACES.map(PathBuf::from));
    let found = known
        .map(|place| place.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| name.into())
}

async fn nft(text: &str) -> Result<(), FilterError> {
    let mut child = Command::new(program("nft"))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(FilterError::Run)?;
    let stdin = child.stdin.take();
    let told = async {
        if let Some(mut stdin) = stdin {
            // Who has failed already does not read; what it says matters more.
            let _unread = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(PATIENCE, told).await;
    check(
        &output
            .map_err(late)
            .and_then(|output| output.map_err(FilterError::Run))?,
    )
}

async fn run(command: &mut Command) -> Result<Output, FilterError> {
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, ended).await;
    output.map_err(late)?.map_err(FilterError::Run)
}

fn late(_: tokio::time::error::Elapsed) -> FilterError {
    FilterError::Run(io::ErrorKind::TimedOut.into())
}

fn check(output: &Output) -> Result<(), FilterError> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("nothing").to_owned();
    Err(FilterError::Refused(said))
}
