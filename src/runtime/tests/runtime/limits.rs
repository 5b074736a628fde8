//! CPU time: limits, shares and accounts.

use std::time::{Duration, Instant};

use vaquita_runtime::{Exit, Process};

use crate::support::{Host, config};

const ENDLESS: &str = r#"(module (func (export "_start") (loop $ever (br $ever))))"#;

/// Lets guests run until these have used so much together.
async fn until_used(processes: &[&Process], wanted: Duration) {
    let used = || {
        processes
            .iter()
            .map(|process| process.usage().cpu)
            .sum::<Duration>()
    };
    while used() < wanted {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_limit_holds_over_periods() {
    let host = Host::new();
    let start = Instant::now();
    let (_pod, limited, _log) = host
        .run_with(ENDLESS, |config| config.cpu_limit = Some(50))
        .await;
    let (_other, free, _log) = host.run(ENDLESS).await;
    until_used(&[&free], Duration::from_secs(1)).await;
    let used = limited.usage().cpu;
    // A twentieth, what the last period had left, and what is owed for a slice that was interrupted.
    let most = start.elapsed() / 20 + Duration::from_millis(100);
    assert!(used <= most, "{used:?} of {most:?}");
    assert!(used > Duration::ZERO);
    limited.kill();
    assert_eq!(
        limited.wait().await,
        Exit::Killed,
        "parked guests can be killed"
    );
}

#[tokio::test]
async fn whoever_requests_more_gets_more_of_a_full_node() {
    let mut config = config();
    config.threads = 1;
    let host = Host::with(config);
    let request = async |request| {
        host.run_with(ENDLESS, |config| config.cpu_request = Some(request))
            .await
    };
    let (_pod, much, _log) = request(900).await;
    let (_pod, little, _log) = request(100).await;
    until_used(&[&much, &little], Duration::from_millis(500)).await;
    let ratio = much.usage().cpu.as_secs_f64() / little.usage().cpu.as_secs_f64();
    assert!(
        (3.0..27.0).contains(&ratio),
        "9 was asked for, and got {ratio}"
    );
}

#[tokio::test]
async fn a_requests_guest_pays_from_its_processs_account() {
    let host = Host::new();
    let text = include_str!("handler.wat");
    let (pod, process, _log) = host
        .run_with(text, |config| config.cpu_limit = Some(100))
        .await;
    let _spinning = [
        host.ask(&pod, 8080, "/spin").await,
        host.ask(&pod, 8080, "/spin").await,
    ];
    let start = Instant::now();
    until_used(&[&process], Duration::from_millis(50)).await;
    let most = start.elapsed() / 10 + Duration::from_millis(200);
    assert!(process.usage().cpu <= most, "both are within one limit");
}
