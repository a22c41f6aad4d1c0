#!/usr/bin/env bash
# Set up this checkout (scripts/setup.sh), then run every test that this machine can run. Arguments go to pytest.
# A tier that cannot run is skipped with its reason; the table before the closing line counts the tests of each tier.
set -euo pipefail
cd "$(dirname "$0")/.."
RAGGEDRT_TENSORRT="${RAGGEDRT_TENSORRT:-1}" ./scripts/setup.sh
printf '\n==> Tests\n'
exec "${RAGGEDRT_VENV:-.venv}/bin/python" -m pytest "$@"
