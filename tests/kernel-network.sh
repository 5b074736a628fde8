#!/usr/bin/env bash
# Tries the one network of modules, Linux containers and the host: addresses, Services, names, policies, and that nothing of it
# is left. By root, with dockerd, nft, iptables, kubectl, curl, busybox-static and the guests:
#
#     tests/kernel-network.sh target/debug/vaquita
#
# All of it happens in a network namespace of its own, with a Docker engine that keeps its usual filter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
vaquita=$(realpath "${1:-target/debug/vaquita}")

if [ -z "${INSIDE:-}" ]; then
    export INSIDE=1
    exec unshare --net --mount --pid --fork --kill-child --mount-proc -- "$0" "$vaquita"
fi

work=$(mktemp --directory --tmpdir=/var/tmp)
ip link set lo up
# As on a machine that forwards nothing before its engine does.
echo 0 >/proc/sys/net/ipv4/ip_forward
# The devices that are seen are to be those of the namespace.
mkdir "$work/sys"
mount -t sysfs sysfs "$work/sys"
mount --rbind /sys/fs/cgroup "$work/sys/fs/cgroup"
mount --rbind "$work/sys" /sys
finish() {
    local status=$?
    [ $status = 0 ] || tail -n 30 "$work"/*.log || true
    kill "$node" "$engine" 2>/dev/null || true
    wait "$node" "$engine" 2>/dev/null || true
    umount --lazy /sys "$work/sys" || true
    rm -rf "$work"
    exit $status
}
node=
dockerd --data-root "$work/docker" --exec-root "$work/exec" --pidfile "$work/pid" --host "unix://$work/socket" \
    --bridge none >"$work/dockerd.log" 2>&1 &
engine=$!
trap finish EXIT

# within WHAT COMMAND...: tries for a minute.
within() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >"$work/seen" 2>&1; do
        if [ $SECONDS -ge $end ]; then
            printf '%s: not in time. Last seen:\n%s\n' "$what" "$(cat "$work/seen")"
            exit 1
        fi
        sleep 0.2
    done
    echo "ok  $what"
}
must() {
    local what=$1
    shift
    "$@" >"$work/seen" 2>&1 || { printf 'not so: %s\n%s\n' "$what" "$(cat "$work/seen")"; exit 1; }
    echo "ok  $what"
}

ask() { curl --silent --fail --unix-socket "$work/socket" "$@"; }
within "the engine answers" ask http://docker/_ping

# An image of busybox, whose web server says who it is and who asks.
root=$work/root
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/www/cgi-bin"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in sh sleep hostname httpd wget nslookup ping cat nc timeout; do
    ln -s busybox "$root/bin/$name"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
cat >"$root/www/cgi-bin/who" <<'EOF'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n%s sees %s\n' $(hostname) $REMOTE_ADDR
EOF
chmod 755 "$root/www/cgi-bin/who"
tar -C "$root" -cf "$work/root.tar" .
ask --header 'Content-Type: application/x-tar' --data-binary "@$work/root.tar" \
    'http://docker/images/create?fromSrc=-&repo=localhost/linux&tag=v1' >/dev/null

up() {
    rm -f "$work/vaquita.log"
    "$vaquita" up --data-dir "$work/data" --listen 127.0.0.1:0 --eviction-hard "" --node-name test-node \
        --docker "unix://$work/socket" --kernel-network on >"$work/vaquita.log" 2>&1 &
    node=$!
    within "the cluster is ready" grep -q ^ready "$work/vaquita.log"
}
up
export KUBECONFIG=$work/data/admin.kubeconfig
for guest in hello toolbox; do
    "$vaquita" image load "wasm-examples/target/wasm32-wasip2/release/$guest.wasm" "localhost/$guest:v1" \
        --data-dir "$work/data" >/dev/null
done

# pod NAME TIER IMAGE COMMAND: a pod of one container.
pod() {
    kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: $1, tier: $2}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: 'localhost/$3:v1'$4}]
EOF
}
pod container both linux ", command: [httpd, -f, -p, '8080', -h, /www]"
pod module both hello ""
pod client none linux ", command: [sleep, '3600']"
pod tools none toolbox ", command: [toolbox, sleep, '3600']"
service() {
    kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Service
metadata: {name: $1}
spec: {selector: {$2}, ports: [{port: 80, targetPort: 8080}]}
EOF
}
service containers "app: container"
service modules "app: module"
service both "tier: both"
ready() { kubectl wait --for=condition=Ready pod --all --timeout=60s >/dev/null; }
ready

address() { kubectl get "$1" "$2" --output "jsonpath={$3}"; }
of() { address pod "$1" .status.podIP; }
at() { address service "$1" .spec.clusterIP; }

# What is at a URL, for the host, a container and a module.
host() { curl --silent --show-error --fail --max-time 5 "http://$1"; }
container() { kubectl exec client -- timeout 5 wget -qO- "http://$1"; }
module() { kubectl exec tools -- toolbox wget "http://$1"; }
# hears CLIENT URL WHAT
hears() { "$1" "$2" | grep -qF "$3"; }
refused() { ! "$1" "$2"; }
# balanced CLIENT: the Service of both kinds is answered by both.
balanced() {
    local all
    all=$(for _ in 1 2 3 4; do "$1" "$(at both)/cgi-bin/who"; done)
    grep -q 'container sees' <<<"$all" && grep -q 'hello from module' <<<"$all"
}

who=$(of container):8080/cgi-bin/who
web=$(of module):8080/
for client in host container module; do
    within "$client to a container" hears $client "$who" 'container sees'
    within "$client to a module" hears $client "$web" 'hello from module'
    within "$client to containers by a Service" hears $client "$(at containers)/cgi-bin/who" 'container sees'
    within "$client to modules by a Service" hears $client "$(at modules)/" 'hello from module'
    within "$client to both by a Service" balanced $client
done
for path in "$who" "$(at containers)/cgi-bin/who"; do
    within "a container is seen as itself" hears container "$path" "sees [::ffff:$(of client)]"
    within "a module is seen as itself" hears module "$path" "sees [::ffff:$(of tools)]"
done
self() { kubectl exec container -- timeout 5 wget -qO- "http://$(at containers)/cgi-bin/who"; }
within "a container to itself by a Service" self
for client in container module; do
    within "$client by a name" hears $client containers/cgi-bin/who 'container sees'
    within "$client by a full name" hears $client modules.default.svc.cluster.local/ 'hello from module'
done
names() { busybox nslookup containers.default.svc.cluster.local 10.96.0.10 | grep -qF "$(at containers)"; }
within "names by UDP" names
must "a container to the API" kubectl exec client -- timeout 5 nc kubernetes.default.svc 443
must "the host pings a module" busybox ping -c 1 -W 5 "$(of module)"
must "a container pings a module" kubectl exec client -- ping -c 1 -W 5 "$(of module)"
must "nobody answers where nobody is" refused host 10.244.0.250:8080/
counted() { kubectl get --raw /metrics | grep -q '^vaquita_kernel_network_accepted_connections_total [1-9]'; }
must "the device counts" counted
condition='{.status.conditions[?(@.type=="KernelNetwork")].status}'
must "the node says so" [ "$(kubectl get node test-node -o jsonpath="$condition")" = True ]

# guard WHOM FROM: lets only one pod in.
guard() {
    kubectl apply -f - >/dev/null <<EOF
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: $1}
spec:
  podSelector: {matchLabels: {app: $1}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: $2}}}]}]
EOF
}
by_service=$(at containers)/cgi-bin/who
guard container tools
guard module client
for path in "$who" "$by_service"; do
    within "a policy keeps a container from a container" refused container "$path"
    within "and lets a module in" hears module "$path" 'container sees'
done
within "a policy keeps a module from a module" refused module "$web"
within "and lets a container in" hears container "$web" 'hello from module'
guard container client
for path in "$who" "$by_service"; do
    within "a policy keeps a module from a container" refused module "$path"
    within "and lets a container in" hears container "$path" 'container sees'
done
kubectl apply -f - >/dev/null <<'EOF'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: []}
EOF
for path in "$who" "$web" "$by_service"; do
    within "a policy keeps a container in" refused container "$path"
done
kubectl delete networkpolicy --all >/dev/null
within "all is open again" hears container "$by_service" 'container sees'

# A crash: the table stays, containers run on, and the next start takes both over.
device() { [ -e /sys/class/net/vaquita0 ]; }
no_device() { ! device; }
before=$(of container)
kill -KILL $node
wait $node 2>/dev/null || true
within "the device is gone with the process" no_device
must "the table stays" nft list table inet vaquita
up
ready
must "the container has its address" [ "$(of container)" = "$before" ]
for client in host container module; do
    within "$client to containers, after a crash" hears $client "$by_service" 'container sees'
    within "$client to modules, after a crash" hears $client "$(at modules)/" 'hello from module'
done
count() { nft list ruleset | grep -cF "$1"; }
must "there is one table" [ "$(count 'table inet vaquita {')" = 1 ]
must "there is one rule for modules" [ "$(iptables -S DOCKER-USER | grep -c vaquita0)" = 1 ]

kill -TERM $node
must "it stops in good order" wait $node
must "the device is gone" no_device
traces() { nft list ruleset 2>/dev/null | grep -c vaquita; }
must "no rule is left" [ "$(traces)" = 0 ]
