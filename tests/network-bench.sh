#!/usr/bin/env bash
# Measures the ways between pods of both kinds, and a plain bridge of Docker beside them in the same run: round trip and
# throughput by TCP. By root, with dockerd, kubectl, curl, and Rust's targets x86_64-unknown-linux-gnu and wasm32-wasip2:
#
#     cargo build --release && tests/network-bench.sh target/release/vaquita
#
# All of it happens in a network namespace of its own, and nothing is left of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
vaquita=$(realpath "${1:-target/release/vaquita}")

if [ -z "${INSIDE:-}" ]; then
    # A static program, so that an image need hold nothing else.
    host=$(rustc -vV | sed -n 's/^host: //p')
    (cd wasm-examples && cargo build --quiet --locked --release --package netbench --target wasm32-wasip2 --target-dir target &&
        RUSTFLAGS="-C target-feature=+crt-static" \
            cargo build --quiet --locked --release --package netbench --target "$host" --target-dir target)
    export HOST=$host INSIDE=1
    exec unshare --net --mount --pid --fork --kill-child --mount-proc -- "$0" "$vaquita"
fi

work=$(mktemp --directory --tmpdir=/var/tmp)
ip link set lo up
mkdir "$work/sys"
mount -t sysfs sysfs "$work/sys"
mount --rbind /sys/fs/cgroup "$work/sys/fs/cgroup"
mount --rbind "$work/sys" /sys
finish() {
    kill "$(cat "$work/vaquita.pid")" && wait "$(cat "$work/vaquita.pid")" || true
    kill "$engine" && wait "$engine" || true
    umount --lazy /sys "$work/sys"
    rm -rf "$work"
}

dockerd --data-root "$work/docker" --exec-root "$work/exec" --pidfile "$work/pid" --host "unix://$work/socket" \
    --bridge none >"$work/dockerd.log" 2>&1 &
engine=$!
trap finish EXIT
ask() { curl --silent --fail --unix-socket "$work/socket" --header 'Content-Type: application/json' "$@"; }
until ask http://docker/_ping >/dev/null; do sleep 0.1; done
mkdir "$work/root"
cp "wasm-examples/target/$HOST/release/netbench" "$work/root/"
tar -C "$work/root" -cf "$work/root.tar" .
ask --header 'Content-Type: application/x-tar' --data-binary "@$work/root.tar" \
    'http://docker/images/create?fromSrc=-&repo=localhost/netbench&tag=linux' >/dev/null

"$vaquita" up --data-dir "$work/data" --listen 127.0.0.1:0 --eviction-hard "" --docker "unix://$work/socket" \
    --kernel-network on >"$work/vaquita.log" 2>&1 &
echo $! >"$work/vaquita.pid"
until grep -q ^ready "$work/vaquita.log"; do sleep 0.1; done
export KUBECONFIG=$work/data/admin.kubeconfig
"$vaquita" image load wasm-examples/target/wasm32-wasip2/release/netbench.wasm localhost/netbench:wasm \
    --data-dir "$work/data" >/dev/null

# pod NAME IMAGE COMMAND...
pod() {
    kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: $1}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: 'localhost/netbench:$2', command: $3}]}
EOF
}
for kind in wasm linux; do
    program=netbench
    [ $kind = wasm ] || program=/netbench
    for pod in client server; do
        pod $pod-$kind $kind "[$program, serve, '7000']"
    done
    kubectl expose pod server-$kind --port 7000 >/dev/null
done
kubectl wait --for=condition=Ready pod --all --timeout=60s >/dev/null
address() { kubectl get "$1" "$2" --output "jsonpath={$3}"; }

# way NAME CLIENT TARGET
way() {
    local program=netbench
    [ "$2" = client-wasm ] || program=/netbench
    printf '%-44s %s\n' "$1" "$(kubectl exec "$2" -- $program measure "$3" 7000)"
}

# Two containers on a bridge of their own, without us.
ask --data '{"Name": "plain", "Driver": "bridge"}' http://docker/networks/create >/dev/null
plain() {
    ask --data "{\"Image\": \"localhost/netbench:linux\", \"Cmd\": $2, \"HostConfig\": {\"NetworkMode\": \"plain\"}}" \
        "http://docker/containers/create?name=$1" >/dev/null
    ask --request POST "http://docker/containers/$1/start" >/dev/null
}
plain plain-server '["/netbench", "serve", "7000"]'
server=$(ask http://docker/containers/plain-server/json | sed 's/.*"IPAddress":"\([0-9.]*\)".*/\1/')
beside() {
    plain "plain-$1" "[\"/netbench\", \"measure\", \"$server\", \"7000\"]"
    ask --request POST "http://docker/containers/plain-$1/wait" >/dev/null
    # A log is in frames, with eight bytes before each.
    printf '%-44s %s\n' "Docker to Docker, plain bridge" \
        "$(ask "http://docker/containers/plain-$1/logs?stdout=1&stderr=1" | tail -c +9)"
}

beside first
way "Docker to Docker" client-linux "$(address pod server-linux .status.podIP)"
way "Docker to Docker through a Service" client-linux "$(address service server-linux .spec.clusterIP)"
way "Docker to Wasm" client-linux "$(address pod server-wasm .status.podIP)"
way "Docker to Wasm through a Service" client-linux "$(address service server-wasm .spec.clusterIP)"
way "Wasm to Docker" client-wasm "$(address pod server-linux .status.podIP)"
way "Wasm to Docker through a Service" client-wasm "$(address service server-linux .spec.clusterIP)"
way "Wasm to Wasm" client-wasm "$(address pod server-wasm .status.podIP)"
beside again
