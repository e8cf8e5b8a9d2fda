#!/usr/bin/env bash
# Puts what `make contracts` works with into the directory DEST: Schemathesis, AsyncAPI's parser, and
# the subscribers of examples/subscriber, built. Does nothing for what is there and unchanged.
#
#   scripts/contract-tools.sh DEST
set -euo pipefail

dest=${1:?usage: scripts/contract-tools.sh DEST}
cd "$(dirname "$0")/.."
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
exec 9>"$dest/.lock"
flock 9

# fetch NAME SOURCE...: whether DEST/NAME must be made anew from these files; says so where it must
fetch() {
  local name=$1 now
  shift
  now=$(cat "$@" | sha256sum)
  [ "$(cat "$dest/$name.made-of" 2>/dev/null)" = "$now" ] && return 1
  rm -rf "${dest:?}/$name" "$dest/$name.made-of"
  echo "fetching what $name needs ..."
}

# made NAME SOURCE...: DEST/NAME is complete
made() {
  local name=$1
  shift
  cat "$@" | sha256sum >"$dest/$name.made-of"
}

sources=(tests/contracts/requirements.txt examples/subscriber/python/requirements.txt)
if fetch python "${sources[@]}"; then
  python3 -m venv "$dest/python"
  "$dest/python/bin/pip" install --quiet --disable-pip-version-check \
    -r "${sources[0]}" -r "${sources[1]}"
  made python "${sources[@]}"
fi

sources=(tests/contracts/asyncapi/package.json tests/contracts/asyncapi/package-lock.json
  tests/contracts/asyncapi/check.mjs)
if fetch asyncapi "${sources[@]}"; then
  mkdir "$dest/asyncapi"
  cp "${sources[@]}" "$dest/asyncapi"
  npm ci --prefix "$dest/asyncapi" --ignore-scripts --no-audit --no-fund --loglevel=error
  made asyncapi "${sources[@]}"
fi

sources=(examples/subscriber/java/pom.xml examples/subscriber/java/src/main/java/Subscriber.java)
if fetch subscriber-java "${sources[@]}"; then
  mkdir -p "$dest/subscriber-java"
  cp -r examples/subscriber/java/pom.xml examples/subscriber/java/src "$dest/subscriber-java"
  mvn --batch-mode --quiet -Dstyle.color=never -f "$dest/subscriber-java/pom.xml" package
  made subscriber-java "${sources[@]}"
fi

sources=(examples/subscriber/go/go.mod examples/subscriber/go/go.sum examples/subscriber/go/main.go)
if fetch subscriber-go "${sources[@]}"; then
  go build -C examples/subscriber/go -mod=readonly -o "$dest/subscriber-go" .
  made subscriber-go "${sources[@]}"
fi
