#!/usr/bin/env bash
# The lab's image without a registry: base images from Debian packages (offline-base.sh), then the image on them. What
# is there and unchanged costs seconds; of two that run at once the second waits for the first.
#
#   compose/build.sh [IMAGE]     IMAGE: its name, default $IMSLAB_IMAGE or imslab
#
# Needs an engine (DOCKER_HOST; compose/engine.sh starts one).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
image=${1:-${IMSLAB_IMAGE:-imslab}}

exec 9>"${TMPDIR:-/tmp}/imslab-build-$(id -u).lock"
flock 9
"$here/offline-base.sh"
# an engine without a bridge of its own builds on the network of the machine
DOCKER_BUILDKIT=0 docker build --quiet --network host --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
  --tag "$image" --file "$here/Dockerfile" "$here/.." >/dev/null
