#!/usr/bin/env bash
# What an order costs in memory, without client and disk: instructions by function (valgrind), and where the time goes as
# a flame graph (perf, and inferno, which is installed under the target folder). Either is left out where its tool is missing.
set -euo pipefail
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --locked -p millrace-processors --example path
path="$target/release/examples/path"

instructions() {
    command -v valgrind >/dev/null || { echo "no instructions: valgrind is missing (apt-get install -y valgrind)" >&2; return 0; }
    for orders in 500 2500; do
        valgrind --tool=callgrind --callgrind-out-file="$target/path.$orders.callgrind" "$path" "$orders" 2>/dev/null
    done
    callgrind_annotate --inclusive=yes "$target/path.2500.callgrind" | grep -v '^--' | sed -n 1,80p
    few=$(sed -n 's/^totals: //p' "$target/path.500.callgrind")
    many=$(sed -n 's/^totals: //p' "$target/path.2500.callgrind")
    echo "$(((many - few) / 2000)) instructions an order"
}

flame_graph() {
    command -v perf >/dev/null || { echo "no flame graph: perf is missing (apt-get install -y linux-perf)" >&2; return 0; }
    inferno="$target/tools/bin"
    [ -x "$inferno/inferno-flamegraph" ] || cargo install --quiet --locked --root "$target/tools" --version 0.12.3 inferno
    perf record --quiet -F 1999 --call-graph dwarf,16384 -o "$target/path.perf" "$path" 4000 >/dev/null
    perf script -i "$target/path.perf" --no-inline 2>/dev/null | "$inferno/inferno-collapse-perf" --quiet >"$target/path.folded"
    "$inferno/inferno-flamegraph" --quiet --title "An order, from placed to confirmed, in memory" \
        "$target/path.folded" >"$target/path.svg"
    echo "flame graph: $target/path.svg"
}

instructions
flame_graph
