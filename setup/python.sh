#!/bin/sh
# Makes a Python environment with the clients that the tests run, once, in target/python-clients, as pinned in
# broker/tests/python/requirements.txt. Does nothing when it is there and complete.
#
# Exit codes: 0 it is there; 3 Python is missing (message says what to install); 1 the fetch failed.
set -eu
cd "$(dirname "$0")/.."

wanted=broker/tests/python/requirements.txt
dir=target/python-clients
pinned=$(cksum <"$wanted")
if [ -f "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$pinned" ]; then
    exit 0
fi
if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
    echo "setup/python.sh: Python 3.8 or later with venv is missing. To run the tests of Python clients too:" >&2
    echo "  apt-get install -y python3-venv" >&2
    exit 3
fi
echo "Fetching the Python clients ..." >&2
mkdir -p target
rm -rf "$dir"
if ! { python3 -m venv "$dir" && "$dir/bin/python" -m pip install -q --disable-pip-version-check \
    -r "$wanted"; } </dev/null >target/python-clients.log 2>&1; then
    cat target/python-clients.log >&2
    echo "setup/python.sh: the Python clients could not be fetched; the lines above say why." >&2
    exit 1
fi
echo "$pinned" >"$dir/complete"
