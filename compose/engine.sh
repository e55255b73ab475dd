#!/usr/bin/env bash
# A Docker engine for machines where none runs: data, socket and process id in one folder of its own, nothing of the
# machine's configuration touched.
#
#   compose/engine.sh start [DIR]   start it unless an engine answers already; prints the DOCKER_HOST to use
#   compose/engine.sh stop [DIR]    end the engine that `start` began, its containers with it
#
# DIR (default: $IMSLAB_ENGINE or /var/tmp/imslab-engine) keeps images between runs. Needs root and Debian's docker.io.
set -euo pipefail

command=${1:-}
folder=${2:-${IMSLAB_ENGINE:-/var/tmp/imslab-engine}}
host="unix://$folder/docker.sock"
wait_s=60

say() { printf '%s\n' "engine: $*" >&2; }

answers() { DOCKER_HOST=$1 docker version >/dev/null 2>&1; }

# What answers at this pid is ours only if it serves this folder.
ours() {
  local pid
  pid=$(cat "$folder/docker.pid" 2>/dev/null) || return 1
  [[ -n $pid ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "--data-root $folder/data "
}

# Where processes outside of any group weigh as much as a whole group (cgroup v1), all containers together would get the
# share of one process: their group gets that of twenty.
shares() {
  local group=/sys/fs/cgroup/cpu/imslab-engine
  if [[ -f /sys/fs/cgroup/cpu/cpu.shares ]] && mkdir -p "$group" 2>/dev/null; then
    echo 20480 >"$group/cpu.shares" && printf -- '--cgroup-parent=/imslab-engine'
  fi
}

# What a caller holds open (a lock, say) is not the engine's to keep: everything but input, output and errors is closed.
without_the_callers_files() {
  local fd
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then exec {fd}>&-; fi
  done
  exec "$@"
}

# An engine that has ended leaves the namespace of its host network mounted, and the folder cannot be removed.
unmount() {
  local at below
  below=$(realpath -m "$folder")
  while read -r at; do
    at=$(printf '%b' "$at") # the kernel writes a space as \040
    [[ $at != "$below"/* ]] || umount "$at" || say "$at is still mounted"
  done < <(awk '{ print $5 }' /proc/self/mountinfo | sort -r)
}

start() {
  if [[ -n ${DOCKER_HOST:-} ]] && answers "$DOCKER_HOST"; then
    printf '%s\n' "$DOCKER_HOST"
    return
  fi
  if answers unix:///var/run/docker.sock; then
    printf '%s\n' unix:///var/run/docker.sock
    return
  fi
  if answers "$host"; then
    printf '%s\n' "$host"
    return
  fi
  if ! command -v dockerd >/dev/null; then
    say "dockerd is not installed (Debian: apt-get install docker.io)"
    exit 3
  fi
  if ((EUID != 0)); then
    say "no engine runs, and starting one needs root"
    exit 3
  fi
  mkdir -p "$folder"
  chmod 0711 "$folder"
  ours || rm -f "$folder/docker.pid" "$folder/exec/containerd/containerd.pid"
  # no bridge of its own: it would share docker0 with an engine that may come later; builds use the host's network
  without_the_callers_files setsid nohup dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid" \
    --host "$host" --bridge none --log-level warn $(shares) </dev/null >"$folder/engine.log" 2>&1 &
  for ((waited = 0; waited < wait_s * 10; waited++)); do
    if answers "$host"; then
      printf '%s\n' "$host"
      return
    fi
    if ((waited > 20)) && ! ours; then break; fi
    sleep 0.1
  done
  say "the engine did not start; the end of $folder/engine.log:"
  tail -n 20 "$folder/engine.log" >&2
  exit 1
}

stop() {
  if ! ours; then
    say "no engine of $folder runs"
    unmount
    return
  fi
  local pid
  pid=$(cat "$folder/docker.pid")
  kill "$pid"
  for ((waited = 0; waited < wait_s * 10; waited++)); do
    if [[ ! -d /proc/$pid ]]; then
      unmount
      return
    fi
    sleep 0.1
  done
  say "the engine (process $pid) does not end"
  exit 1
}

case $command in
  start) start ;;
  stop) stop ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
