#!/bin/sh
# Runs the checks and timings on a machine with an NVIDIA GPU and torch 2.11.0 with CUDA: either of Python
# (`python3 -m pip install torch==2.11.0`), or a folder with libtorch named by LIBTORCH. Neither Rust nor a compiler is needed.
#
#   ./run.sh [--out gpu.csv] [options of the program, such as --only scale_grad]
#   ./run.sh qat llm train CONFIG.toml --device cuda …
#
# The figures are put into gpu.csv; `cargo xtask gpu --record gpu.csv` takes them into the repository. With `qat` the command line
# runs instead.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ -n "${LIBTORCH:-}" ]; then
    libraries="$LIBTORCH/lib"
else
    libraries=$(python3 -c '
import pathlib, sys, torch
if torch.__version__.split("+")[0] != "2.11.0":
    sys.exit(f"torch 2.11.0 is needed, found {torch.__version__}")
torch = pathlib.Path(torch.__file__).parent
# What pip puts beside torch: the CUDA libraries, which the fused kernels are compiled with.
folders = [torch / "lib", *sorted(torch.parent.glob("nvidia/*/lib"))]
print(":".join(str(folder) for folder in folders))')
fi
[ -n "$libraries" ] || { echo "error: no torch 2.11.0; install it, or set LIBTORCH" >&2; exit 1; }

LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH

if [ "${1:-}" = qat ]; then
    shift
    exec "$here/qat" "$@"
fi
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || card=
exec "$here/gpu" --out gpu.csv ${card:+--machine "$card"} "$@"
