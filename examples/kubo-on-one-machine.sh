#!/usr/bin/env bash
# Several Kubo daemons on one machine, for trying ByteNode with real IPFS nodes.
#
#   examples/kubo-on-one-machine.sh start DIR [N=3]   makes and starts N private daemons below DIR, prints their addresses
#   examples/kubo-on-one-machine.sh stop DIR          stops them; the data stays
#
# Every daemon listens on 127.0.0.1 alone, on ports that are free, and talks to nobody: no bootstrap, no routing, no
# discovery. Kubo must be on PATH as `ipfs`. Add each printed address with: bytenode admin node add ADDRESS
set -euo pipefail

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

configure() {
    ipfs init --profile=test,unixfs-v1-2025 >/dev/null
    ipfs config --json Routing '{"Type": "none"}'
    ipfs config --json Provide '{"Enabled": false}'
    ipfs config --json Discovery.MDNS.Enabled false
    ipfs config --json Gateway.NoFetch true
    # With this cache, a lost or damaged block cannot be written again while the daemon runs.
    ipfs config --json Datastore.BlockKeyCacheSize 0
}

# The URL for an address file that Kubo wrote: a multiaddr (api) or a URL (gateway).
url() {
    case $1 in
        /ip4/*/tcp/*) echo "http://$(cut -d/ -f3 <<<"$1"):$(cut -d/ -f5 <<<"$1")" ;;
        *) echo "$1" ;;
    esac
}

start() {
    local dir=$1 count=$2 node
    command -v ipfs >/dev/null || { echo "ipfs is not on PATH: see https://docs.ipfs.tech/install" >&2; exit 1; }
    for node in $(seq 1 "$count"); do
        export IPFS_PATH=$dir/kubo$node
        mkdir -p "$IPFS_PATH"
        [ -f "$IPFS_PATH/config" ] || configure
        if [ -f "$IPFS_PATH/pid" ] && kill -0 "$(cat "$IPFS_PATH/pid")" 2>/dev/null; then
            echo "kubo$node  $(url "$(cat "$IPFS_PATH/api")")  gateway $(url "$(cat "$IPFS_PATH/gateway")")  (was running)"
            continue
        fi
        rm -f "$IPFS_PATH/api" "$IPFS_PATH/gateway"
        nohup ipfs daemon >"$IPFS_PATH/log" 2>&1 </dev/null &
        echo $! >"$IPFS_PATH/pid"
        for _ in $(seq 1 150); do
            [ -s "$IPFS_PATH/api" ] && [ -s "$IPFS_PATH/gateway" ] && break
            kill -0 "$(cat "$IPFS_PATH/pid")" 2>/dev/null || { tail -n 5 "$IPFS_PATH/log" >&2; exit 1; }
            sleep 0.2
        done
        echo "kubo$node  $(url "$(cat "$IPFS_PATH/api")")  gateway $(url "$(cat "$IPFS_PATH/gateway")")"
    done
}

stop() {
    local pid
    for pid in "$1"/kubo*/pid; do
        [ -f "$pid" ] || continue
        kill "$(cat "$pid")" 2>/dev/null || true
        rm -f "$pid"
    done
}

case ${1:-} in
    start) [ $# -ge 2 ] || usage; start "$2" "${3:-3}" ;;
    stop) [ $# -eq 2 ] || usage; stop "$2" ;;
    *) usage ;;
esac
