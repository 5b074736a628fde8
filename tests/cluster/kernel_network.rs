//! One network for modules, Linux containers and the host: `tests/kernel-network.sh`, which can also be run by hand, tries
//! it in a network namespace with a Docker engine of its own. By root, and it fails without.

use std::{path::Path, process::Command};

#[test]
fn modules_containers_and_the_host_are_on_one_network() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel-network.sh");
    let status = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_vaquita"))
        .status()
        .expect("the script runs");
    assert!(status.success(), "{status}: see above");
}
