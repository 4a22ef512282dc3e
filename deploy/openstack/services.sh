# What `up` and `down` share: where this OpenStack keeps its state, and how its processes are started, found and ended.
# shellcheck shell=bash

unset "${!OS_@}"     # a cloud the caller works with is not this one
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8   # the system's Python, not the checkout's
STATE=${VISA_OPENSTACK_STATE:-/var/lib/visa-openstack}
etc=$STATE/etc log=$STATE/log run=$STATE/run

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
die() { printf 'openstack %s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

[[ $EUID == 0 ]] || die "needs root: it makes network devices and starts system services"

# A service holds a lock on its pid file for as long as it, or a worker it forked, lives: a pid file left behind
# cannot be mistaken for a running service.
running() { [[ -e $run/$1.pid ]] && ! flock --nonblock "$run/$1.pid" true; }

# start NAME COMMAND...: one background process with a log and a pid file; nothing happens where it runs.
start() {
    local name=$1; shift
    running "$name" && return
    exec 9>"$run/$name.pid"
    flock 9
    setsid "$@" </dev/null >>"$log/$name.log" 2>&1 &
    echo $! >&9
    exec 9>&-
}

# stop NAME: asks, waits, insists.
stop() {
    running "$1" || return 0
    local pid signal; pid=$(<"$run/$1.pid")
    for signal in TERM KILL; do
        kill -"$signal" -- "-$pid" 2>/dev/null || true
        flock --timeout 20 "$run/$1.pid" true && break
    done
    rm -f "$run/$1.pid"
}

# await NAME SECONDS COMMAND...: until the command succeeds, for as long as the service it speaks of is running.
await() {
    local name=$1 seconds=$2 end=$((SECONDS + $2)); shift 2
    until "$@" >/dev/null 2>&1; do
        running "$name" || die "$name stopped: see $log/$name.log
$(tail -n 5 "$log/$name.log")"
        ((SECONDS < end)) || die "$name not ready after $seconds s: see $log/$name.log"
        sleep 0.5
    done
}

# This cloud's guests and network namespaces, whoever started them.
guests() { virsh --connect qemu:///system list --all --name 2>/dev/null | grep '^visa-' || true; }
namespaces() { ip netns list | awk '/^qdhcp-/ {print $1}'; }

# Takes Neutron's rules out of the host's filters.
unfilter() {
    local filter
    for filter in ebtables iptables ip6tables; do
        "$filter-save" | sed /neutron/d | "$filter-restore"
    done
    ipset list -name | sed -n /^NIPv/p | xargs --no-run-if-empty --max-args=1 ipset destroy
}
