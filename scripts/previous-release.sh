#!/usr/bin/env bash
# Builds the program of the release before, DIR/ride-promo, from this repository's history. Which one
# that is stands in tests/previous-release: the last commit of the schema version before.
#
#   scripts/previous-release.sh DIR
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(cat tests/previous-release)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
if [ "$(cat "$dir/commit" 2>/dev/null)" = "$commit" ] && [ -x "$dir/ride-promo" ]; then
  exit 0
fi
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "the history here does not reach $commit; in a shallow clone: git fetch --unshallow" >&2
  exit 1
fi
rm -rf "$dir/source" "$dir/commit"
mkdir "$dir/source"
git archive "$commit" | tar -x -C "$dir/source"
echo "building the release before, $commit"
(cd "$dir/source" && CARGO_TARGET_DIR="$dir/target" SQLX_OFFLINE=true cargo build --locked --bin ride-promo)
mv "$dir/target/debug/ride-promo" "$dir/ride-promo"
rm -rf "$dir/source" "$dir/target"
printf '%s\n' "$commit" >"$dir/commit"
