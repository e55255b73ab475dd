#!/usr/bin/env bash
# The base images of the lab, built from Debian packages, for sites without an image registry: under exactly the names
# that Dockerfile and compose.yaml use, so that nothing else changes. An image that is there already is kept (--force
# builds it anew). Starts nothing.
#
#   compose/offline-base.sh [--force] [python] [postgres]
#
# Needs root, debootstrap and an engine (DOCKER_HOST, or the default one; compose/engine.sh starts one).
# What this machine needs to reach Debian and the Python package index, i.e. apt's and pip's mirrors and proxies and
# the certificates it trusts, goes into the images. So these are for this site: publish neither them nor what is built
# on them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

release=bookworm
debian_image=imslab-offline-debian:$release
declare -A image=([python]=python:3.11-slim-bookworm [postgres]=postgres:15-bookworm)

force=
wanted=()
for argument in "$@"; do
  case $argument in
    --force) force=1 ;;
    python | postgres) wanted+=("$argument") ;;
    *)
      sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
done
((${#wanted[@]})) || wanted=(python postgres)

say() { printf '%s\n' "offline-base: $*" >&2; }
present() { docker image inspect "$1" >/dev/null 2>&1; }

for tool in docker debootstrap; do
  command -v "$tool" >/dev/null || {
    say "$tool is not installed (Debian: apt-get install docker.io debootstrap)"
    exit 3
  }
done
docker version >/dev/null 2>&1 || {
  say "no engine answers; compose/engine.sh start begins one, and says the DOCKER_HOST to set"
  exit 3
}

missing=()
for name in "${wanted[@]}"; do
  if [[ -n $force ]] || ! present "${image[$name]}"; then missing+=("$name"); fi
done
((${#missing[@]})) || exit 0
((EUID == 0)) || {
  say "debootstrap needs root"
  exit 3
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Debian repositories of this release that this machine uses, else the public ones.
repositories() {
  { apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(RELEASE)' 'Created-By: Packages' 2>/dev/null || true; } |
    awk -v release="$release" '$2 == "Debian" && ($3 == release || $3 == release "-updates" || $3 == release "-security") {
      sub(/\/$/, "", $1); print $1, $3 }' | sort -u
}

# pip's own view of its configuration, files and environment together; what lies on this machine's disk stays behind.
pip_configuration() {
  local line key value
  printf '[global]\n'
  { python3 -m pip config list 2>/dev/null || true; } | while IFS= read -r line; do
    key=${line%%=*} value=${line#*=}
    key=${key##*.}
    value=${value#\'} value=${value%\'}
    case $key in
      index-url | extra-index-url)
        value=$(tr -s ' \\' '\n' <<<"$value" | grep -E '^https?://' | tr '\n' ' ' || true)
        [[ -n $value ]] && printf '%s = %s\n' "$key" "$value"
        ;;
      cert) printf 'cert = /etc/ssl/certs/ca-certificates.crt\n' ;;
      trusted-host | proxy | timeout | default-timeout | retries) printf '%s = %s\n' "${key#default-}" "$value" ;;
    esac
  done | sort -u -t= -k1,1
}

base() {
  local mirror repository suite root=$work/root
  mirror=$(repositories | awk -v release="$release" '$2 == release { print $1; exit }')
  mirror=${mirror:-http://deb.debian.org/debian}
  say "Debian $release"
  debootstrap --variant=minbase --include=ca-certificates "$release" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    say "debootstrap failed"
    exit 1
  }
  {
    repositories | while read -r repository suite; do printf 'deb %s %s main\n' "$repository" "$suite"; done
  } >"$root/etc/apt/sources.list"
  [[ -s $root/etc/apt/sources.list ]] || printf 'deb %s %s main\n' "$mirror" "$release" >"$root/etc/apt/sources.list"
  { apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|Retries|Check-)' || true; } >"$root/etc/apt/apt.conf.d/50site"
  pip_configuration >"$root/etc/pip.conf"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/dev/* "$root"/var/log/bootstrap.log
  rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
  tar -C "$root" --numeric-owner -c . | docker import - "$debian_image" >/dev/null
  rm -rf "$root"
}

if [[ -n $force ]] || ! present "$debian_image"; then base; fi

# an engine without a bridge of its own builds on the network of the machine
for name in "${missing[@]}"; do
  say "${image[$name]}"
  DOCKER_BUILDKIT=0 docker build --quiet --network host --build-arg "BASE=$debian_image" \
    --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
    --tag "${image[$name]}" --file "$here/offline/$name.Dockerfile" "$here/offline" >/dev/null
done
