#!/bin/sh
# The include rule (docs/architecture.md): a file includes headers of its own folder and of lower ranks only.
set -eu
cd "$(dirname "$0")/../.."
find include base format image kernels model infer eval train convert curate cli \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort | xargs awk '
BEGIN {
    n = split("include dinov base format image kernels model infer eval train convert curate cli", folders, " ")
    split("0 0 1 2 2 2 3 4 5 6 6 6 7", ranks, " ")
    for (i = 1; i <= n; i++) rank[folders[i]] = ranks[i] + 0
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    path = $0
    sub(/^[^"]*"/, "", path)
    sub(/".*/, "", path)
    split(FILENAME, from, "/")
    split(path, to, "/")
    checked++
    if (!(to[1] in rank)) {
        print FILENAME ": " path ": includes are written from the repository root"
        bad = 1
    } else if (from[1] != to[1] && from[1] != "include" && rank[to[1]] >= rank[from[1]]) {
        print FILENAME " (rank " rank[from[1]] ") includes " path " (rank " rank[to[1]] ")"
        bad = 1
    }
}
END { print checked " includes checked"; exit (bad || !checked) }'
