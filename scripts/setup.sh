#!/bin/bash
# Makes the virtual environment .venv with everything that Gestalt needs; does nothing when it is up to date.
#   scripts/setup.sh [run|dev]    run: what the daemons and gestaltctl need; dev (default): the development tools too
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-dev}
stamp=.venv/.gestalt-setup
wanted=$(cat setup.py pyproject.toml | sha256sum | cut -d' ' -f1)

have() { [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null && [ -f "$stamp" ] && grep -qx "$1 $wanted" "$stamp"; }

# One at a time: two makes side by side would install over each other.
mkdir -p .run
exec 9>.run/setup.lock
flock 9
if have dev || have "$purpose"; then exit 0; fi

python=$(scripts/find-python)
if ! .venv/bin/python -c '' 2>/dev/null; then
  rm -rf .venv
  echo "making .venv with $python"
  "$python" -c 'import ensurepip' 2>/dev/null || { echo "setup: $python has no venv; run: scripts/install-packages demo" >&2; exit 1; }
  "$python" -m venv .venv
fi
rm -f "$stamp"
target=.
[ "$purpose" = run ] || target='.[dev]'
echo "installing Python packages into .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" </dev/null
echo "$purpose $wanted" >"$stamp"
