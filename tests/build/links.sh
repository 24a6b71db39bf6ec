#!/bin/sh
# Every file that a document links to, or names in its tree, exists.
set -eu
cd "$(dirname "$0")/../.."
bad=0 n=0
for page in *.md docs/*.md spec/*.md; do
    for link in $(grep -o '](\([^)#]*\)' "$page" | sed 's/^](//' | grep -v ':' || true); do
        n=$((n + 1))
        [ -e "$(dirname "$page")/$link" ] || { echo "$page links to $link, which does not exist"; bad=1; }
    done
done
echo "$n links checked"
[ $bad = 0 ] && [ $n != 0 ]
