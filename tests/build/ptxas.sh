#!/bin/sh
# What the compiler makes of each kernel for the GPUs we name: no stack frame, no spilled register, and no more registers and static
# shared memory than ptxas-budget.tsv allows (else 128 and none; dynamic shared memory is chosen at launch and not seen here).
# Launches are written by DINOV_LAUNCH alone. Takes the kernels' files, by default all; NVCC names the compiler. Exits 77 without one.
set -eu
budget=$(cd "$(dirname "$0")" && pwd)/ptxas-budget.tsv
for file in "$@"; do [ -f "$file" ] || { echo "$file: no such file"; exit 64; }; done
given=$(for file in "$@"; do realpath "$file"; done)
cd "$(dirname "$0")/../.."

hits=$(grep -rn '<<<' base kernels model infer train eval cli tests --include='*.cu' --include='*.cuh' --include='*.[ch]' | grep -v '^kernels/cuda/cuda\.cuh:' || true)
[ -z "$hits" ] || { echo "launches go through DINOV_LAUNCH:"; echo "$hits"; exit 1; }

NVCC=${NVCC:-nvcc}
command -v "$NVCC" > /dev/null || { echo "skipped: no nvcc, so nothing is known of registers"; exit 77; }
command -v c++filt > /dev/null || { echo "c++filt of binutils is needed to name kernels"; exit 1; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
targets=
for sm in 80 90 100; do targets="$targets -gencode arch=compute_$sm,code=sm_$sm"; done
[ -n "$given" ] || given=$(ls kernels/cuda/*.cu)
echo "$given" | NVCC=$NVCC OUT=$out TARGETS=$targets xargs -P 2 -I FILE sh -c '
    name=$(basename FILE .cu)
    $NVCC -std=c++17 -fmad=false -I. -Iinclude $TARGETS -Xptxas -v -c FILE -o "$OUT/$name.o" > "$OUT/$name.txt" 2>&1 ||
        { cat "$OUT/$name.txt"; exit 1; }' || { echo "nvcc failed"; exit 1; }

whole=0
[ $# != 0 ] || whole=1
cat "$out"/*.txt | c++filt | awk -F '\t' -v budget="$budget" -v whole=$whole '
function fail(words) { print "FAIL: " kernel " for " sm ": " words; bad = 1 }
function number(line, after) { sub(after ".*", "", line); sub(/.*[ ,]/, "", line); return line + 0 }
function named(line) { sub(/^void /, "", line); sub(/\(.*/, "", line); return line }
BEGIN {
    while ((getline line < budget) > 0) {
        if (line ~ /^#/ || line == "") continue
        if (split(line, cell, "\t") != 4) { print budget ": expected 4 columns: " line; bad = 1; continue }
        pattern[++rows] = cell[1]; registers[rows] = cell[2]; shared[rows] = cell[3]
    }
}
/Compiling entry function/ {
    kernel = $0
    sub(/^[^\047]*\047/, "", kernel)
    sm = kernel
    sub(/\047 for \047.*/, "", kernel)
    kernel = named(kernel)
    sub(/.*\047 for \047/, "", sm)
    sub(/\047.*/, "", sm)
    next
}
/Function properties for/ {
    inside = $0
    sub(/.*Function properties for /, "", inside)
    inside = named(inside)
    next
}
/bytes stack frame/ {
    if (number($0, " bytes stack frame") || number($0, " bytes spill stores") || number($0, " bytes spill loads")) {
        words = $0
        sub(/^ */, "", words)
        fail((inside == kernel ? "" : inside ": ") words)
    }
    next
}
/: Used [0-9]+ registers/ {
    kernels++
    row = 0
    for (i = 1; i <= rows && !row; i++)
        if (kernel ~ "^(" pattern[i] ")$") row = i
    met[row] = 1
    used = number($0, " registers")
    held = /bytes smem/ ? number($0, " bytes smem") : 0
    if (used > most) { most = used; widest = kernel " for " sm }
    if (used > (row ? registers[row] : 128)) fail(used " registers, allowed are " (row ? registers[row] : 128))
    if (held > (row ? shared[row] : 0)) fail(held " bytes of static shared memory, allowed are " (row ? shared[row] : 0))
    next
}
END {
    for (i = 1; whole && i <= rows; i++)
        if (!met[i]) { print "FAIL: " budget ": no kernel is called " pattern[i]; bad = 1 }
    if (!kernels) { print "FAIL: nvcc reported no kernel"; bad = 1 }
    else print kernels " kernels, times GPUs; most registers: " most ", " widest
    exit bad
}'
