#!/bin/sh
# Everything of Luthier that needs a CUDA device, in one command: sh bench/gpu.sh [FOLDER FOR THE OUTPUT]
# Uses the `python3` it finds (PyTorch with CUDA, transformers, peft, pytest and Luthier's own dependencies); no network.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-build/gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
status=0

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/machine.txt"
python3 -m luthier doctor --json > "$out/doctor.json" || status=1

# Parity, equal bits, fp16 scaling, resume (tests/test_gpu.py); figures that are printed stand in the file.
python3 -m pytest tests/test_gpu.py -p no:cacheprovider -rA > "$out/tests.txt" 2>&1 || status=1
tail -n 3 "$out/tests.txt"

# A whole product run on the device: the demonstration, its receipt, tokens/s and the allocator's peak against the plan.
(cd "$out" && python3 -m luthier demo) > "$out/demo.txt" 2>&1 || status=1
tail -n 30 "$out/demo.txt"
cp "$out"/runs/demo/receipt.json "$out"/runs/demo/plan.json "$out" 2> /dev/null

# Element-wise chains plain, in Triton and compiled; attention per segment and in one call; a step: milliseconds each.
python3 bench/gpu_kernels.py > "$out/kernels.md" 2>&1 || status=1
cat "$out/kernels.md"
exit $status
