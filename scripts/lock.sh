#!/bin/bash
# Writes requirements.lock: the exact versions of everything that the daemons and gestaltctl need, for the release build.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$(scripts/find-python)" -m venv "$fresh/venv"
"$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable . </dev/null
{
  echo "# Written by scripts/lock.sh (make lock); what a release is built with. setup.py holds the lower bounds."
  "$fresh/venv/bin/python" -m pip freeze --disable-pip-version-check --exclude-editable | LC_ALL=C sort -f
} >"$fresh/lock"
mv "$fresh/lock" requirements.lock
