#!/bin/bash
# Writes the locks, exact versions with the hashes of their wheels: requirements.lock, everything that the daemons and gestaltctl need,
# and packaging/build.lock, what builds the packages of them; and what the first holds into the spec file.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$(scripts/find-python)" -m venv "$fresh/venv"
python=$fresh/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check --editable . </dev/null
{
  echo "# Written by scripts/lock.sh (make lock); what a release is built with. setup.py holds the lower bounds."
  "$python" -m pip freeze --disable-pip-version-check --exclude-editable | LC_ALL=C sort -f | "$python" packaging/wheels.py lock
} >"$fresh/lock"
"$python" -m pip install --quiet --disable-pip-version-check --upgrade setuptools </dev/null
{
  echo "# Written by scripts/lock.sh (make lock); what a package of Gestalt is built by, and does not contain."
  "$python" -m pip freeze --disable-pip-version-check --all | grep '^setuptools==' | "$python" packaging/wheels.py lock
} >"$fresh/build.lock"
mv "$fresh/lock" requirements.lock
mv "$fresh/build.lock" packaging/build.lock
"$python" packaging/wheels.py bundled requirements.lock packaging/gestalt.spec
