# Sourced by what fetches or installs something.
# shellcheck shell=bash

# retry SECONDS COMMAND...: runs a program that fetches something, each time for so long at most, up to
# three times.
retry() {
  local limit=$1 try
  shift
  for try in 1 2 3; do
    # --foreground: Ctrl-C reaches the program too
    if timeout --foreground --kill-after=10 "$limit" "$@"; then
      return 0
    fi
    if [ "$try" -lt 3 ]; then
      echo "$1 failed or took longer than $limit s; trying again ..." >&2
      sleep $((try * 5))
    fi
  done
  return 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt_get ARGUMENTS...: as root. It tries again and gives up by itself; ended from outside it could
# leave an installation half done.
apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
    -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60 \
    -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
