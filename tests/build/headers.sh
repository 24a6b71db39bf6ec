#!/bin/sh
# Every public header compiles alone, as C11 and as C++.
set -eu
cd "$(dirname "$0")/../.."
n=0
for header in include/dinov/*.h; do
    for language in c c++; do
        echo "#include \"dinov/$(basename "$header")\"" | ${CC:-cc} -x $language -std=$([ $language = c ] && echo c11 || echo c++11) \
            -Wall -Wextra -Werror -pedantic -Iinclude -fsyntax-only -
        n=$((n + 1))
    done
done
echo "$n header checks"
