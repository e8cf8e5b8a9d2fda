#!/usr/bin/env bash
# Installs what `make demo`, `make test` or `make contracts` needs and this machine lacks, where that
# is allowed: on Debian or Ubuntu, as root or with a sudo that asks for no password. Otherwise says
# in one line what to install, and fails. Does nothing where everything is there.
#
#   scripts/setup.sh demo|test|contracts
set -euo pipefail
# shellcheck source=scripts/retry.sh
. "$(dirname "$0")/retry.sh"

purpose=${1:-}
case $purpose in
  demo | test | contracts) ;;
  *)
    echo "usage: scripts/setup.sh demo|test|contracts" >&2
    exit 2
    ;;
esac

has() { command -v "$1" >/dev/null 2>&1; }

has_compilers() { has cc && has c++; }

has_library() { has pkg-config && pkg-config --exists "$1"; }

# The server's programs, which Debian keeps off the path.
has_postgres() {
  has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# Kafka needs Java 17. `java -version` says 17.0.15, or 1.8.0 for the old ones.
has_java() {
  local version
  has java || return 1
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${version:-0}" -ge 17 ]
}

# The oldest Java that will do and that this release of the distribution has; $1 is jre or jdk.
java_package() {
  local version
  if has apt-cache; then
    for version in 17 21 25; do
      if apt-cache show "openjdk-$version-$1-headless" >/dev/null 2>&1; then
        echo "openjdk-$version-$1-headless"
        return
      fi
    done
  fi
  echo "default-$1-headless"
}

# The browser tests drive Chromium from Node 18 or newer, which AsyncAPI's parser needs too.
has_node() {
  local version
  has node || return 1
  version=$(node --version | sed -n 's/^v\([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 18 ]
}

has_chromium() {
  [ -n "${RIDE_PROMO_TEST_BROWSER:-}" ] || has chromium || has chromium-browser ||
    has google-chrome-stable || has google-chrome
}

# One package per line. The C compiler builds librdkafka, which rdkafka-sys brings as source.
missing() {
  has_compilers || echo build-essential
  has make || echo make
  has pkg-config || echo pkg-config
  has_library openssl || echo libssl-dev
  has_library zlib || echo zlib1g-dev
  has_postgres || echo postgresql
  if [ "$purpose" != demo ]; then
    has_java || java_package jre
    has mvn || echo maven
    has pgbouncer || [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
    # makes the certificates of the tests
    has openssl || echo openssl
    has_node || echo nodejs
    has npm || echo npm
    has_chromium || echo chromium
    # the guides' commands
    has curl || echo curl
  fi
  if [ "$purpose" = contracts ]; then
    has javac || java_package jdk
    # on Debian python3 comes without what venv needs
    python3 -c 'import ensurepip' >/dev/null 2>&1 || echo python3-venv
  fi
}

if ! has cargo; then
  echo "Rust is missing: install it with rustup (https://rustup.rs), then run this again" >&2
  exit 1
fi

mapfile -t packages < <(missing)
if [ "${#packages[@]}" -eq 0 ]; then
  exit 0
fi

if ! has apt-get || ! as_root true 2>/dev/null; then
  echo "please install these packages (Debian's names), then run this again: ${packages[*]}" >&2
  exit 1
fi

echo "installing what is missing: ${packages[*]}"
# not all lists may matter here
apt_get update || echo "apt's lists are not all up to date" >&2
# looked up again: a fresh machine knew no packages before the update
mapfile -t packages < <(missing)
install() { apt_get install -y --no-install-recommends "$@"; }

# The server's package makes and starts a cluster of its own, which nobody here needs: not where this
# machine has had none of its packages yet.
clusters=/etc/postgresql-common/createcluster.conf
if [[ " ${packages[*]} " == *" postgresql "* ]] && [ ! -e "$clusters" ] && install postgresql-common; then
  before=$(mktemp)
  cp "$clusters" "$before"
  trap 'as_root cp "$before" "$clusters"; rm "$before"' EXIT
  echo 'create_main_cluster = false' | as_root tee -a "$clusters" >/dev/null
fi
if ! install "${packages[@]}"; then
  hint=
  if [[ " ${packages[*]} " == *" chromium "* ]]; then
    hint=" (Ubuntu has Chromium as a snap only: install Google Chrome, or name a browser in RIDE_PROMO_TEST_BROWSER)"
  fi
  echo "apt could not install these packages, please do, then run this again: ${packages[*]}$hint" >&2
  exit 1
fi

mapfile -t packages < <(missing)
if [ "${#packages[@]}" -ne 0 ]; then
  echo "still missing after the installation: ${packages[*]}" >&2
  exit 1
fi
