#!/bin/bash
# Fails when the generated code in proto/ is not what the .proto files give.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
mkdir "$fresh/gestalt" "$fresh/scripts"
cp -r proto "$fresh/proto"
ln -s ../proto "$fresh/gestalt/proto"
cp scripts/proto.sh scripts/find-python "$fresh/scripts/"
GESTALT_PROTO_TOOLS="$PWD/.run/proto" "$fresh/scripts/proto.sh"
diff -r -q -x __pycache__ proto "$fresh/proto" || { echo "the generated code is stale; run: make proto" >&2; exit 1; }
