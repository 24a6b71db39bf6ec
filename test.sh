#!/bin/sh
# Installs the test dependencies, builds, and runs the tests. The last line counts them.
#   ./test.sh         everything: release, sanitizers, fuzz replay, comparison with PyTorch and others
#   ./test.sh quick   the quick tier: a few minutes, no Python packages beyond numpy
set -eu
cd "$(dirname "$0")"
tier=${1:-full}
case $tier in full | quick) ;; *) echo "usage: ./test.sh [quick]" >&2; exit 64 ;; esac

say() { printf '\n== %s\n' "$*"; }
reports=$PWD/build/reports
rm -rf "$reports" && mkdir -p "$reports"

say "dependencies"
.ci/install build test
if [ "$tier" = full ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install -q -r tests/requirements.txt
    export DINOV_PYTHON="$PWD/.venv/bin/python"
    # The same libraries of about two years ago, and Debian's PyTorch.
    older=$PWD/.venv/2024
    cmp -s tests/requirements-2024.txt "$older/installed" || {
        rm -rf "$older"
        .venv/bin/python -m pip install -q --no-deps --target "$older" -r tests/requirements-2024.txt
        cp tests/requirements-2024.txt "$older/installed"
    }
    export DINOV_OLDER="$older" DINOV_TORCH_OLD=/usr/bin/python3
fi

# run PRESET CTEST-ARGUMENTS...: configure (with $options), build ($targets) and test one preset.
options= targets=
run() {
    preset=$1 && shift
    say "$preset"
    cmake --preset "$preset" -DDINOV_TESTS=ON -DDINOV_WERROR=ON $options >"$reports/$preset.log" 2>&1 &&
        cmake --build --preset "$preset" ${targets:+--target $targets} >>"$reports/$preset.log" 2>&1 ||
        { tail -n 40 "$reports/$preset.log"; echo "$preset does not build"; exit 1; }
    dir=build && [ "$preset" = release ] || dir=build/$preset
    ctest --test-dir $dir --output-on-failure --no-tests=error --output-junit "$reports/$preset.xml" "$@" || failed=1
}

failed=0
if [ "$tier" = quick ]; then
    run release -L quick
else
    run release
    run asan -LE lint
    run tsan -L threads
    if command -v nvcc >/dev/null; then
        # That everything compiles for a GPU, what the compiler makes of it, and what NVIDIA's libraries say to it.
        nvidia=$PWD/.venv/cuda
        cmp -s tests/requirements-cuda.txt "$nvidia/installed" || {
            rm -rf "$nvidia"
            if .venv/bin/python -m pip install -q --no-deps --target "$nvidia" -r tests/requirements-cuda.txt; then
                cp tests/requirements-cuda.txt "$nvidia/installed"
            else
                echo "NVIDIA's libraries cannot be had; kernels_plans is skipped"
            fi
        }
        options="-DCMAKE_CUDA_ARCHITECTURES=90-real -DDINOV_NVIDIA=$nvidia/nvidia"
        targets="dinov-infer dinov-convert dinov-demo-model gpu_bench gpu_kernels kernels_plans fake_driver unit_device"
        run cuda -L cuda
    else
        say "cuda" && echo "skipped: no nvcc; kernels/cuda was tested on the host shim"
    fi
fi

# A ctest entry counts once for each preset it ran in.
sum() { cat "$reports"/*.xml | tr '\n' ' ' | sed 's/<testsuite/\n&/g' | sed -n "s/^<testsuite [^>]*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p" | awk '{s += $1} END {print s + 0}'; }
tests=$(sum tests) bad=$(sum failures) skipped=$(($(sum skipped) + $(sum disabled)))
echo
echo "$((tests - bad - skipped)) passed, $bad failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$bad" = 0 ]
