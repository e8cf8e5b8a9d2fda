#!/usr/bin/env bash
# Takes the files of Swagger UI that the admin listener serves from the npm package swagger-ui-dist,
# packed, into src/api/swagger-ui. They are committed, so that building needs no network for them.
#
#   scripts/swagger-ui.sh VERSION
set -euo pipefail

version=${1:?usage: scripts/swagger-ui.sh VERSION}
dest=$(cd "$(dirname "$0")/.." && pwd)/src/api/swagger-ui
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "swagger-ui-dist@$version" >/dev/null
tar xzf swagger-ui-dist-*.tgz
for file in swagger-ui-bundle.js swagger-ui.css; do
  # without name and time, so that the same version is the same bytes
  gzip -9 -n -c "package/$file" >"$dest/$file.gz"
done
cp package/LICENSE package/NOTICE package/swagger-ui-bundle.js.LICENSE.txt "$dest"
echo "$version" >"$dest/VERSION"
