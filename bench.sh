#!/usr/bin/env bash
# Measures rowferry beside the engines' own tools on private servers with durable settings.
#
#   ./bench.sh            prints the figures of all parts
#   ./bench.sh copy wide diff memory write catch-up lag idle cost    of these parts
#   ./bench.sh --write …  puts them into docs/performance.md too
#
# ROWFERRY_BENCH_ROWS (200000) and ROWFERRY_BENCH_ROUNDS (3) say how much; ROWFERRY_BENCH_PAIRS is part of the names of
# the pairs to copy or compare, whose lines alone are put into the page then; ROWFERRY_BENCH_DATA_DIFF names data-diff's
# program, to be measured beside `rowferry diff`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ROWFERRY_TEST_MYSQL_SKIP=1 exec ./test.sh --durable --run cargo bench --locked --bench figures -- "$@"
