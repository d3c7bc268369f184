#!/usr/bin/env bash
# Trains the model that ships, or goes on where it was stopped: benchmarks/train_shipped.sh DIR [WORKDIR] [FLAGS]
#
# DIR holds train/ and val/, folder trees of images. WORKDIR keeps checkpoints and models (default: runs/shipped-cpu
# or runs/shipped-accelerator). FLAGS go to train.py. Ctrl-C ends it in good order, and the same command goes on.
# WORKDIR/model.safetensors is the model to ship; until the end best.safetensors is what there is.
#
# On a CPU it is configs/shipped.py as it stands. On an accelerator the same model learns from larger batches of
# larger crops for longer, in bfloat16. To go on from the weights that ship rather than from none:
#
#     benchmarks/train_shipped.sh DIR WORKDIR --config.init_from=ltchm_jax/weights/rsscn7.safetensors \
#         --config.linear_start=0
set -euo pipefail
stop() { echo "$1" >&2; exit 2; }

[ $# -ge 1 ] || stop "A folder with train/ and val/ is needed: benchmarks/train_shipped.sh DIR [WORKDIR] [FLAGS]"
for part in train val; do
  [ -d "$1/$part" ] || stop "DIR must hold train/ and val/, $1 has no $part/: benchmarks/train_shipped.sh DIR"
done
data=$(realpath "$1")
shift
workdir=
if [ $# -ge 1 ] && [[ $1 != --* ]]; then
  workdir=$(realpath -m "$1")
  shift
fi
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || stop "$python is not there: run make venv, or say PYTHON=/path/to/python"

kind=$("$python" -c 'import jax; print("cpu" if jax.default_backend() == "cpu" else "accelerator")' 2>/dev/null) ||
  stop "$python must be able to import jax: run make venv, or say PYTHON=/path/to/python"
flags=()
if [ "$kind" = accelerator ]; then
  flags=(--config.dtype=bfloat16 --config.batch_size=16 --config.data.crop=256 --config.steps=100000
    --config.linear_start=840 --config.data.threads=16 --config.validate_every=5000 --config.checkpoint_every=1000)
  echo "100,000 steps of 16 crops of 256 x 256 in bfloat16; not timed here: see 'left' in the lines below" >&2
else
  echo "12 min for the start, 50 min for 2,400 steps of 8 crops of 128 x 128, then some 30 min to fit the synthesis" \
    "and the prior of y alone: 1.5 h on two idle x86 cores, reckoned from its parts" >&2
fi
# A step's memory in huge pages rather than in 170,000 small ones: a CPU's steps take 7 to 16% less time.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec "$python" train.py --config configs/shipped.py --workdir "${workdir:-runs/shipped-$kind}" \
  --config.data.folder="$data/train" --config.data.validation_folder="$data/val" "${flags[@]}" "$@"
