#!/bin/sh
# Calls that belong to one place, and habits that belong nowhere. Prints what breaks a rule.
set -eu
cd "$(dirname "$0")/../.."
bad=0
# rule PATTERN WHY FILES-TO-SKIP...: no source line outside the named files matches PATTERN.
rule() {
    pattern=$1 why=$2 && shift 2
    skip="-e ^\$"
    for f in "$@"; do skip="$skip -e ^$f"; done
    hits=$(grep -nE "$pattern" -r include base format image kernels model infer eval train convert cli --include='*.[ch]' --include='*.cu' --include='*.cuh' | grep -v $skip || true)
    [ -z "$hits" ] || { echo "$why:"; echo "$hits"; bad=1; }
}
rule '(^|[^_a-z])(malloc|calloc|realloc|free|aligned_alloc|strdup)\(' 'memory comes from base/alloc.h' base/alloc.c
rule '(^|[^_a-z])(exit|abort|_Exit)\(' 'only programs end the process' base/fail.c cli/
rule '(^|[^_a-zA-Z])(printf|puts|putchar)\(' 'only programs print' cli/
rule '<<<' 'kernels are launched by DINOV_LAUNCH' kernels/cuda/cuda.cuh
rule 'getenv\(' 'no hidden settings' base/ cli/
rule '	' 'spaces, not tabs'
rule '[ ]+$' 'blanks at the end of a line'
rule '(TODO|FIXME|XXX|HACK)' 'decide it, or open an issue'
rule '^[^"]{141}' 'lines of at most 140 columns (sentences in quotes may be longer)'
exit $bad
