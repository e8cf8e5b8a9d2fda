#!/usr/bin/env bash
# Checks the Prometheus rules of deploy/prometheus and runs their tests, with the promtool there is
# or else that of Debian's package, unpacked under the target directory without being installed (the
# package would start a server).
#
#   scripts/check-rules.sh [TARGET_DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/retry.sh
. scripts/retry.sh
target=${1:-target}

promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
  promtool=$target/promtool/usr/bin/promtool
  if [ ! -x "$promtool" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
      echo "please install promtool (it comes with Prometheus), then run this again" >&2
      exit 1
    fi
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    # apt reads as an unprivileged user of its own
    chmod 755 "$download"
    fetch() { (cd "$download" && "$@" apt-get download -q prometheus); }
    # a fresh machine knows no packages, or ones that are gone
    if ! fetch timeout 300 && ! { apt_get update && fetch retry 300; }; then
      echo "could not fetch promtool with apt: install Prometheus' promtool, then run this again" >&2
      exit 1
    fi
    mkdir -p "$target/promtool"
    dpkg-deb --extract "$download"/prometheus_*.deb "$target/promtool"
  fi
fi

# the rules that it names too
"$promtool" check config deploy/prometheus/prometheus.yml
"$promtool" test rules deploy/prometheus/rules_test.yml
