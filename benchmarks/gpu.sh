#!/bin/bash
# What waits for a GPU, in one go and so that a short loan is enough: tests, and meanwhile the paper's three networks and
# the contrast of multiplicity, side by side. What is killed goes on when it is called again.
#
#   RESECT_CIFAR10=DIR OUT=DIR [EPOCHS=164] [LIMIT=SECONDS] [DEVICE=cuda] [DATA=cifar10] [MODEL=resnet110] \
#       [CONTRAST="primary --setting epochs=4 --setting precision=float32"] benchmarks/gpu.sh
set -u
: "${OUT:?a folder for weights and logs}" "${EPOCHS:=164}" "${LIMIT:=86400}" "${DEVICE:=cuda}" "${DATA:=cifar10}" "${MODEL:=resnet110}"
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${CONTRAST-}" ]; then # the one that is begun
    CONTRAST="primary --setting epochs=4 --setting precision=float32"
    [ -e "$OUT/multiplicity" ] || { mkdir -p "$OUT" && cp -r "$here/benchmarks/multiplicity-cifar10" "$OUT/multiplicity"; }
fi
export PYTHONPATH=$here/src${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1
mkdir -p "$OUT"
if command -v nvidia-cuda-mps-control > /dev/null; then # kernels of several processes at the same time
    export CUDA_MPS_PIPE_DIRECTORY=$OUT/mps CUDA_MPS_LOG_DIRECTORY=$OUT/mps
    mkdir -p "$OUT/mps" && nvidia-cuda-mps-control -d
fi

told() { # NAME COMMAND...: run it, its words in a log, and say how it ended
    local name=$1 start=$SECONDS
    shift
    timeout "$LIMIT" "$@" > "$OUT/$name.log" 2>&1
    echo "$name: status $?, $((SECONDS - start)) s: $(tail -n 1 "$OUT/$name.log")"
}

trained() { # NAME OPTIONS...
    local name=$1
    shift
    told "$name" python3 -m resect train cifar10-paper --data "$DATA" --model "$MODEL" --device "$DEVICE" \
        --epochs "$EPOCHS" --quiet --out "$OUT/$name.safetensors" "$@"
}

trained full &
trained keep23 --schedule fixed-count --keep "${KEEP:-23}" &
trained stochastic-depth --schedule stochastic-depth &
# shellcheck disable=SC2086 # several words
told multiplicity python3 -m resect multiplicity "$DATA" $CONTRAST --device "$DEVICE" --at-once "${AT_ONCE:-8}" \
    --quiet --out "$OUT/multiplicity" &
(cd "$here" && CUDA_MPS_PIPE_DIRECTORY=/nowhere told tests python3 -m pytest tests/test_cuda*.py -n "${WORKERS:-4}" -q --tb=short)
wait
