#!/bin/sh
# The tests of federations over NVFlare, in an environment of their own, because CI's has
# no need of the many packages that nvflare brings. Usage: tools/nvflare_env.sh [DIR]
# where DIR is the environment (default .venv-nvflare); it is made if there is none.
set -eu
cd "$(dirname "$0")/.."
environment=${1:-.venv-nvflare}

[ -x "$environment/bin/python" ] || python3.11 -m venv "$environment"
"$environment/bin/pip" install --quiet --constraint requirements.txt \
    '.[nvflare]' pytest hypothesis

environment=$(cd "$environment" && pwd)
cd tests
"$environment/bin/python" -m pytest -q -rs --durations 15 federate/test_sites.py federate/nvflare
