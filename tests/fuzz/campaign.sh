#!/bin/sh
# Builds one target, fuzzes it for a number of executions and appends a line to LEDGER.tsv; the commit is the one built.
#   tests/fuzz/campaign.sh TARGET EXECUTIONS
# What it finds stays in build/fuzz/TARGET/; new inputs that reach new code too, for merging into corpus/.
set -eu
cd "$(dirname "$0")/../.."
target=$1 executions=$2
work=build/fuzz/$target
mkdir -p "$work/corpus" "$work/found"
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- '*.[ch]' || echo +)
{ cmake --preset fuzz && cmake --build --preset fuzz --target fuzz_"$target"; } >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
before=$(ls "$work/found" | wc -l)
dict= && [ ! -e "tests/fuzz/$target.dict" ] || dict=-dict=tests/fuzz/$target.dict
start=$(date +%s)
build/fuzz/tests/fuzz_"$target" -runs="$executions" -max_len=${MAX_LEN:-16384} -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/found/" $dict "$work/corpus" "tests/fuzz/corpus/$target" >"$work/log" 2>&1 || true
seconds=$(($(date +%s) - start))
done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
coverage=$(grep -o 'cov: [0-9]*' "$work/log" | tail -n 1 | cut -d' ' -f2)
found=$(($(ls "$work/found" | wc -l) - before))
[ -n "$done" ] || { tail -n 20 "$work/log" >&2; exit 1; }
[ "$found" != 0 ] || [ "$done" -ge "$executions" ] || { echo "ended after $done of $executions executions without a finding; not recorded" >&2; exit 1; }
[ -e tests/fuzz/LEDGER.tsv ] || printf 'date\tcommit\ttarget\tcompiler\tsanitizers\texecutions\tseconds\tedges\tfindings\n' >tests/fuzz/LEDGER.tsv
printf '%s\t%s\t%s\t%s\taddress,undefined\t%s\t%s\t%s\t%s\n' "$(date +%F)" "$commit" "$target" \
    "clang $(clang -dumpversion)" "$done" "$seconds" "${coverage:--}" "$found" | tee -a tests/fuzz/LEDGER.tsv
[ "$found" = 0 ]
