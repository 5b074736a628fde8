//! Commands in containers: exec, attach, cp.

use std::{fs, process::Stdio};

use crate::harness::{Vaquita, eventually, run, run_with_input};

fn cluster() -> Vaquita {
    let cluster = Vaquita::up();
    cluster.load_guest("toolbox", "localhost/toolbox:v1");
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/toolbox:v1
    command: [toolbox]
    args: [sleep, '3600']
    env: [{name: COLOUR, value: blue}]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
",
    );
    cluster.wait_ready("app=box", 1);
    cluster
}

#[test]
fn commands_have_streams_environment_and_an_exit_code() {
    let cluster = cluster();
    let exec = |args: &[&str]| {
        let mut all = vec!["exec", "box", "--"];
        all.extend(args);
        cluster.try_kubectl(&all)
    };
    assert_eq!(exec(&["echo", "hello", "you"]).stdout, "hello you\n");
    assert_eq!(exec(&["env", "COLOUR"]).stdout, "COLOUR=blue\n");
    assert_eq!(exec(&["hostname"]).stdout, "box\n");
    // Its own module, by the first word of its command.
    assert_eq!(exec(&["toolbox", "echo", "own"]).stdout, "own\n");
    let failed = exec(&["false"]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stderr);
    let absent = exec(&["no-such-command"]);
    // WASI 0.2 knows success and failure, no numbers.
    assert_eq!(absent.status.code(), Some(1), "{}", absent.stderr);
    assert!(
        absent.stderr.contains("no-such-command: not found"),
        "{}",
        absent.stderr
    );
    let complaint = exec(&["cat", "/absent"]);
    assert!(
        complaint.stdout.is_empty() && complaint.stderr.contains("/absent"),
        "{}",
        complaint.stderr
    );
    let nowhere = exec(&["/data/absent.wasm"]);
    assert!(
        nowhere
            .stderr
            .contains("executable file not found in $PATH"),
        "{}",
        nowhere.stderr
    );

    let mut cat = cluster.kubectl_command();
    let text = "line\n".repeat(100_000);
    let echoed = run_with_input(cat.args(["exec", "-i", "box", "--", "cat"]), &text);
    assert_eq!(echoed.stdout.len(), text.len());
}

#[test]
fn files_are_copied_both_ways() {
    let cluster = cluster();
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("up/deep")).expect("a directory");
    fs::write(at("up/deep/file"), "x".repeat(3_000_000)).expect("a file");
    fs::write(at("up/small"), "small").expect("a file");
    let up = at("up").to_str().expect("a path").to_owned();
    cluster.kubectl(&["cp", &up, "box:/data/there"]);
    assert_eq!(
        cluster.kubectl(&["exec", "box", "--", "cat", "/data/there/small"]),
        "small"
    );
    let down = at("down").to_str().expect("a path").to_owned();
    cluster.kubectl(&["cp", "box:/data/there", &down]);
    assert_eq!(
        fs::read(at("down/deep/file")).expect("it is back").len(),
        3_000_000
    );
    // A module that was copied into a volume can be executed there.
    let module = crate::harness::guest_file("toolbox");
    cluster.kubectl(&["cp", module.to_str().expect("a path"), "box:/data/echo"]);
    assert_eq!(
        cluster.kubectl(&["exec", "box", "--", "/data/echo", "from", "a", "volume"]),
        "from a volume\n"
    );
}

#[test]
fn a_client_that_goes_away_takes_its_command_along() {
    let cluster = cluster();
    let mut kubectl = cluster.kubectl_command();
    let mut child = kubectl
        .args(["exec", "-i", "box", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl starts");
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    // What is left would hold the pod up.
    cluster.kubectl(&["delete", "pod", "box", "--wait", "--timeout=30s"]);
}

#[test]
fn who_attaches_types_and_sees() {
    let cluster = cluster();
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: 'localhost/toolbox:v1', command: [toolbox, cat], stdin: true, stdinOnce: true}
",
    );
    eventually("it runs", || {
        let pod = cluster.get(&["pod", "reader"]);
        (pod["status"]["phase"] == "Running")
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    let mut attach = cluster.kubectl_command();
    let seen = run_with_input(attach.args(["attach", "-i", "reader"]), "typed\n");
    assert!(
        seen.stdout.contains("typed"),
        "{} {}",
        seen.stdout,
        seen.stderr
    );
    eventually("it ends with what it reads", || {
        let pod = cluster.get(&["pod", "reader"]);
        (pod["status"]["phase"] == "Succeeded")
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    let logs = run(cluster.kubectl_command().args(["logs", "reader"]));
    assert_eq!(logs.stdout, "typed\n");
}

#[test]
fn hooks_and_probes_run_commands_and_a_program_leaves_last_words() {
    let cluster = cluster();
    let kept = tempfile::tempdir().expect("a directory");
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: hooked, labels: {{app: hooked}}}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: main
    image: localhost/toolbox:v1
    command: [toolbox, sleep, '3600']
    volumeMounts: [{{name: kept, mountPath: /kept}}]
    readinessProbe: {{exec: {{command: [test, -d, /kept/begun]}}, periodSeconds: 1}}
    lifecycle:
      postStart: {{exec: {{command: [mkdir, /kept/begun]}}}}
      preStop: {{exec: {{command: [mkdir, /kept/ended]}}}}
  volumes: [{{name: kept, hostPath: {{path: {}, type: Directory}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: words}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: 'localhost/toolbox:v1', command: [toolbox, cat, /absent], terminationMessagePolicy: FallbackToLogsOnError}}
",
        kept.path().display()
    ));
    cluster.wait_ready("app=hooked", 1);
    assert!(kept.path().join("begun").is_dir());
    cluster.kubectl(&["delete", "pod", "hooked", "--wait"]);
    assert!(kept.path().join("ended").is_dir());
    eventually("the last words", || {
        let pod = cluster.get(&["pod", "words"]);
        let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let message = end["message"].as_str().unwrap_or_default();
        (end["reason"] == "Error" && message.contains("/absent"))
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
}

#[test]
fn an_ephemeral_container_looks_into_a_pod() {
    let cluster = cluster();
    let image = "--image=localhost/toolbox:v1";
    cluster.kubectl(&[
        "debug",
        "box",
        image,
        "--container=look",
        "--",
        "toolbox",
        "echo",
        "looked",
    ]);
    eventually("it has run", || {
        let pod = cluster.get(&["pod", "box"]);
        let end = &pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"];
        (end["exitCode"] == 0)
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    assert_eq!(cluster.kubectl(&["logs", "box", "-c", "look"]), "looked\n");
    let pod = cluster.get(&["pod", "box"]);
    assert_eq!(pod["status"]["phase"], "Running");
}

#[test]
fn a_file_runs_without_a_cluster_and_in_one() {
    let toolbox = crate::harness::guest_file("toolbox");
    let toolbox = toolbox.to_str().expect("a path");
    let vaquita = || std::process::Command::new(env!("CARGO_BIN_EXE_vaquita"));
    let alone = run(vaquita().args(["run", toolbox, "--env", "A=b", "--", "env", "A"]));
    assert_eq!(
        (alone.stdout.as_str(), alone.status.code()),
        ("A=b\n", Some(0)),
        "{}",
        alone.stderr
    );
    assert_eq!(
        run(vaquita().args(["run", toolbox, "--", "false"]))
            .status
            .code(),
        Some(1)
    );
    let typed = run_with_input(vaquita().args(["run", toolbox, "--", "cat"]), "typed");
    assert_eq!(typed.stdout, "typed");
    let code = crate::harness::guest_file("exit-code");
    let code = run(vaquita().args(["run", code.to_str().expect("a path"), "--", "7"]));
    assert_eq!(code.status.code(), Some(7), "{}", code.stderr);

    let cluster = Vaquita::up();
    let dir = cluster.dir();
    let dir = dir.path().to_str().expect("a path");
    let inside = run(vaquita().args([
        "run",
        "--cluster",
        "--data-dir",
        dir,
        toolbox,
        "--",
        "echo",
        "inside",
    ]));
    assert_eq!(inside.stdout, "inside\n", "{}", inside.stderr);
    let outside = run(vaquita().args([
        "run",
        "--cluster",
        "--data-dir",
        dir,
        toolbox,
        "--",
        "false",
    ]));
    assert_eq!(outside.status.code(), Some(1), "{}", outside.stderr);
}

#[test]
fn a_module_imports_only_what_its_policy_grants() {
    let cluster = cluster();
    cluster.apply(include_str!("../../policies/wasm-policy.yaml"));
    let policy = "apiVersion: vaquita.dev/v1alpha1
kind: WasmPolicy
metadata: {name: mute}
spec:
  podSelector: {matchLabels: {voice: none}}
  imports: ['wasi:clocks/*', 'wasi:io/*', 'wasi:random/*']
";
    eventually("the kind is there", || {
        let applied = cluster.try_apply(policy);
        applied.status.success().then_some(()).ok_or(applied.stderr)
    });
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: muted, labels: {voice: none}}
spec:
  containers:
  - {name: main, image: 'localhost/toolbox:v1', command: [toolbox, 'true']}
",
    );
    eventually("it is refused", || {
        let pod = cluster.get(&["pod", "muted"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        let is_refused = message.starts_with("import ")
            && message.ends_with("is not granted by WasmPolicy mute");
        is_refused
            .then_some(())
            .ok_or_else(|| pod["status"].to_string())
    });
    // Others are not selected.
    assert_eq!(
        cluster.kubectl(&["exec", "box", "--", "echo", "loud"]),
        "loud\n"
    );
}

#[test]
fn the_toolbox_looks_around_in_a_pod_that_has_none() {
    let cluster = cluster();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&crate::pods::web("web", 1));
    let pod = cluster.wait_ready("app=web", 1).remove(0);
    let exec = |args: &[&str]| {
        let mut all = vec!["exec", pod.as_str(), "--"];
        all.extend(args);
        cluster.try_kubectl(&all)
    };
    eventually("the Service is answered", || {
        let page = exec(&["wget", "-q", "http://web/"]);
        let is_it = page.stdout.contains(&pod);
        is_it.then_some(()).ok_or(page.stdout + &page.stderr)
    });
    assert_eq!(exec(&["nc", "-z", "web", "80"]).status.code(), Some(0));
    assert_eq!(exec(&["nc", "-z", "web", "81"]).status.code(), Some(1));
    let service = cluster.get(&["service", "web"]);
    let ip = service["spec"]["clusterIP"].as_str().expect("an address");
    let found = exec(&["nslookup", "web.default.svc.cluster.local"]).stdout;
    assert!(found.contains(&format!("Address: {ip}")), "{found}");
    let unknown = exec(&["nslookup", "nobody"]);
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    assert!(exec(&["ipcs"]).stdout.starts_with("QUEUE"));
    // Each command is a process of its container.
    let listed = exec(&["ps"]).stdout;
    let own = listed.lines().find(|line| line.ends_with(" ps"));
    assert!(own.is_some_and(|line| line.contains(" web ")), "{listed}");
}

#[test]
fn a_process_is_found_and_killed() {
    let cluster = cluster();
    let mut kubectl = cluster.kubectl_command();
    let mut sleeping = kubectl
        .args(["exec", "box", "--", "sleep", "1234"])
        .spawn()
        .expect("kubectl starts");
    let id = eventually("it is listed", || {
        let listed = cluster.kubectl(&["exec", "box", "--", "ps"]);
        let line = listed.lines().find(|line| line.ends_with("sleep 1234"));
        let id = line.and_then(|line| line.split_whitespace().next());
        id.map(str::to_owned).ok_or(listed)
    });
    cluster.kubectl(&["exec", "box", "--", "kill", &id]);
    let ended = sleeping.wait().expect("it ends");
    assert_eq!(ended.code(), Some(143));
    let again = cluster.try_kubectl(&["exec", "box", "--", "kill", "-9", &id]);
    assert!(again.stderr.contains("no such process"), "{}", again.stderr);
}
