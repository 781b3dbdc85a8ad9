#!/bin/sh
# Everything that CI holds, against the installed package. Usage: tools/check.sh [BIN]
# where BIN is the environment's bin directory (default .venv/bin).
set -eu
cd "$(dirname "$0")/.."
bin=$(cd "${1:-.venv/bin}" && pwd)

"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/mypy"
NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict --quiet

# From tests/, so that `import fedsparsify_jax` finds what was installed and not the
# source tree; a test checks that it did.
cd tests
export FEDSPARSIFY_INSTALLED=1
"$bin/python" -m pytest -q -n 2 --dist worksteal -p doctest_names \
  --doctest-modules --pyargs fedsparsify_jax
"$bin/python" -m pytest -q -n 2 --dist worksteal --durations 15 .
