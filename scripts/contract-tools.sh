#!/usr/bin/env bash
# Puts what `make contracts` works with into the directory DEST: Schemathesis, AsyncAPI's parser, and
# the subscribers of examples/subscriber, built. Does nothing for what is there and unchanged.
#
#   scripts/contract-tools.sh DEST
set -euo pipefail

dest=${1:?usage: scripts/contract-tools.sh DEST}
cd "$(dirname "$0")/.."
# shellcheck source=scripts/retry.sh
. scripts/retry.sh
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

# Debian 12 has 1.19. From the module proxy, as newer Go fetches it by itself.
go_version=1.24.13
go_sha256=d2b048367a3d1a748b87f756fa06df12ce3b419e1d5f2a3612acb8950d615f9f

# Prints a Go that builds the example, which wants 1.24: this machine's, or one put into DEST/go.
a_go() {
  local version proxy module=golang.org/toolchain@v0.0.1-go$go_version.linux-amd64
  version=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  if [ "${version:-0}" -ge 24 ]; then
    echo go
    return
  fi
  if [ ! -x "$dest/go/bin/go" ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] || return 1
    proxy=${GOPROXY:-}
    proxy=${proxy%%[,|]*}
    case $proxy in
      http*) ;;
      *) proxy=https://proxy.golang.org ;;
    esac
    echo "fetching Go $go_version ..." >&2
    rm -rf "$dest/go" "$dest/go.new"
    mkdir "$dest/go.new"
    retry 300 curl --fail --silent --show-error --location --output "$dest/go.new/go.zip" \
      "${proxy%/}/${module/@//@v/}.zip" || return 1
    echo "$go_sha256  $dest/go.new/go.zip" | sha256sum --check --quiet >&2 || return 1
    python3 -m zipfile -e "$dest/go.new/go.zip" "$dest/go.new" || return 1
    # the archive of a module says nothing of what can be run
    chmod +x "$dest/go.new/$module"/bin/* "$dest/go.new/$module"/pkg/tool/*/*
    mv "$dest/go.new/$module" "$dest/go"
    rm -r "$dest/go.new"
  fi
  echo "$dest/go/bin/go"
}

sources=(tests/contracts/requirements.txt tests/contracts/constraints.txt)
if fetch python "${sources[@]}"; then
  python3 -m venv "$dest/python"
  retry 600 "$dest/python/bin/pip" install --quiet --disable-pip-version-check \
    -r "${sources[0]}" -c "${sources[1]}"
  made python "${sources[@]}"
fi

sources=(tests/contracts/asyncapi/package.json tests/contracts/asyncapi/package-lock.json
  tests/contracts/asyncapi/check.mjs)
if fetch asyncapi "${sources[@]}"; then
  mkdir "$dest/asyncapi"
  cp "${sources[@]}" "$dest/asyncapi"
  retry 300 npm ci --prefix "$dest/asyncapi" --ignore-scripts --no-audit --no-fund --loglevel=error
  made asyncapi "${sources[@]}"
fi

# As docs/subscriber-guide.md builds them, in a copy; the tests run its commands there, which then
# find everything at hand.
mapfile -t sources < <(find examples/subscriber -type f -not -path '*/target/*' -not -path '*/.venv/*' | sort)
if fetch subscribers "${sources[@]}"; then
  if ! go_program=$(a_go); then
    echo "please install Go 1.24 or newer, then run this again" >&2
    exit 1
  fi
  mkdir "$dest/subscribers"
  for source in "${sources[@]}"; do
    install -D -m 644 "$source" "$dest/subscribers/$source"
  done
  (
    cd "$dest/subscribers"
    python3 -m venv .venv
    retry 600 .venv/bin/pip install --quiet --disable-pip-version-check -r examples/subscriber/python/requirements.txt
    retry 600 mvn --batch-mode --quiet -Dstyle.color=never -f examples/subscriber/java/pom.xml package
    retry 600 "$go_program" build -C examples/subscriber/go -mod=readonly -o /dev/null .
  )
  made subscribers "${sources[@]}"
fi
