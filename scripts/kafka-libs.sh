#!/usr/bin/env bash
# Puts the jars of the Kafka that the tests run (tests/kafka/pom.xml) into the directory DEST.
# Does nothing when they are there already. Safe to run several times at once.
#
#   scripts/kafka-libs.sh DEST
set -euo pipefail

# shellcheck source=scripts/retry.sh
. "$(dirname "$0")/retry.sh"
dest=${1:?usage: scripts/kafka-libs.sh DEST}
pom=$(cd "$(dirname "$0")/.." && pwd)/tests/kafka/pom.xml

# The pom's copy is written last: it says that the jars are all there, and of which versions.
complete() { cmp -s "$pom" "$dest/pom.xml"; }

if complete; then exit 0; fi

mkdir -p "$(dirname "$dest")"
exec 9>"$dest.lock"
flock 9
if complete; then exit 0; fi

echo "fetching Apache Kafka for the tests ..."
rm -rf "$dest"
mkdir -p "$dest"
if ! retry 600 mvn --batch-mode --quiet -Dstyle.color=never -f "$pom" dependency:copy-dependencies \
  -DoutputDirectory="$(cd "$dest" && pwd)" >&2; then
  echo "could not fetch Kafka's jars with Maven: check the network, then run this again" >&2
  exit 1
fi
cp "$pom" "$dest/pom.xml"
