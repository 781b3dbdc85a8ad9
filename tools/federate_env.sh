#!/bin/sh
# The tests of federations over Flower, in an environment of their own, because flwr
# excludes some of the versions that CI uses. Usage: tools/federate_env.sh [DIR]
# where DIR is the environment (default .venv-federate); it is made if there is none.
set -eu
cd "$(dirname "$0")/.."
environment=${1:-.venv-federate}
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT

# flwr 1.42: protobuf < 7, rich < 15, packaging < 26.
grep -vE '^(protobuf|rich|packaging)==' requirements.txt > "$constraints"
[ -x "$environment/bin/python" ] || python3.11 -m venv "$environment"
"$environment/bin/pip" install --quiet --constraint "$constraints" \
    '.[flower,encrypted,medical]' pytest hypothesis

environment=$(cd "$environment" && pwd)
cd tests
"$environment/bin/python" -m pytest -q -rs --durations 15 federate
