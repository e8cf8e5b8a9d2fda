#!/usr/bin/env bash
# Fetches what drives the browser in the tests, as tests/browser/package-lock.json has it: once, and
# again when that has changed.
set -euo pipefail
# shellcheck source=scripts/retry.sh
. "$(dirname "$0")/retry.sh"
cd "$(dirname "$0")/../tests/browser"

# npm writes it when everything is there
installed=node_modules/.package-lock.json
if [ ! -f "$installed" ] || [ package-lock.json -nt "$installed" ]; then
  echo "fetching what drives the browser in the tests ..."
  if ! retry 300 npm ci --loglevel=error >/dev/null; then
    echo "could not fetch playwright-core with npm: check the network, then run this again" >&2
    exit 1
  fi
fi
