//! What sockets must do, tried by guests of WASI 0.2 and 0.3 alike: `wasm-examples/socket-cases`.

use vaquita_net::{Fabric, FabricConfig};
use vaquita_runtime::Exit;

use crate::support::{Host, start};

async fn tries(guest: &str) {
    let mut host = Host::new();
    // Few, since one case takes all there are.
    let network = FabricConfig {
        ephemeral_ports: 50_000..=50_099,
        ..FabricConfig::default()
    };
    host.fabric = Fabric::new(network).expect("a fabric");
    let module = host.example("wasm32-wasip2", guest).await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |_| {}).await;
    let exit = process.wait().await;
    let text = log.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().all(|line| line.ends_with(": ok")), "{text}");
    assert_eq!((exit, lines.len()), (Exit::Exited(0), 22), "{text}");
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn of_wasi_0_2() {
    tries("socket-cases").await;
}

#[tokio::test]
async fn of_wasi_0_3() {
    tries("async_socket_cases").await;
}
