#!/bin/sh
# docs/config.md is what the table of keys prints.   usage: config_page.sh PROGRAM
set -eu
cd "$(dirname "$0")/../.."
"$1" | diff -u docs/config.md - || { echo "docs/config.md: print it again, $1 > docs/config.md"; exit 1; }
