#!/bin/bash
# Runs every test of the workspace, those against Apache Kafka included, and ends with one line:
# "N passed, N failed". Arguments go to `cargo test` in place of --workspace.
#
# PROFILE=name                 build with that cargo profile instead of the default one
# MILLRACE_REQUIRE_KAFKA=1     fail when the Apache Kafka tests cannot run (implied by CI=true)
# MILLRACE_REQUIRE_PYTHON=1    fail when the tests of Python clients cannot run (implied by CI=true)
# MILLRACE_TEST_SECONDS=4500   under CI, the most the tests may take before they are ended; two quiet cores need some 2,800
# RUST_TEST_THREADS=4          tests that run at a time; twice as many as there are cores unless it is set
#
# Exit codes: 0 all passed; 1 a test failed, the build failed, or a required lane did not run.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

if [ "${CI:-}" = true ]; then
    export MILLRACE_REQUIRE_KAFKA=1 MILLRACE_REQUIRE_PYTHON=1
fi
required=${MILLRACE_REQUIRE_KAFKA:-0}
started=$SECONDS

if ! setup/kafka.sh && [ "$required" = 1 ]; then
    echo "The Apache Kafka lane is required here and cannot run; the lines above say why." >&2
    echo "0 passed, 1 failed"
    exit 1
fi

if ! setup/python.sh && [ "${MILLRACE_REQUIRE_PYTHON:-0}" = 1 ]; then
    echo "The Python clients are required here and cannot run; the lines above say why." >&2
    echo "0 passed, 1 failed"
    exit 1
fi

seconds=${MILLRACE_TEST_SECONDS:-4500}
limit=()
if [ "${CI:-}" = true ]; then
    # Nothing is built twice there, so what a next build would need is not kept.
    export CARGO_INCREMENTAL=0
    limit=(timeout --kill-after=30 "$seconds")
fi
what=(--workspace)
if [ "$#" -gt 0 ]; then
    what=("$@")
fi
profile=()
if [ -n "${PROFILE:-}" ]; then
    profile=(--profile "$PROFILE")
fi

# Tests on brokers wait most of the time, for sessions and deadlines to pass: twice as many as there are cores at a time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

mkdir -p target
log=target/test.log
"${limit[@]}" cargo test --locked --no-fail-fast "${profile[@]}" "${what[@]}" </dev/null 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

# libtest's own totals, one line per test binary; and what tests/kafka/node.rs says of its lane.
# A test that was skipped returned early, which libtest counts as passed: it is taken off again.
read -r passed failed ignored skipped nodes < <(awk '
    /^ +Running |^ +Doc-tests / { binary = $0 }
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    match($0, /SKIPPED \(no (Apache Kafka|Python clients|valgrind)\) [^ ]+:/) {
        if (!seen[binary, substr($0, RSTART, RLENGTH)]++) skipped++
    }
    /READY \(Apache Kafka\) / { nodes++ }
    END { print passed - skipped + 0, failed + 0, ignored + 0, skipped + 0, nodes + 0 }
' "$log")

echo
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
    case $status in
    124 | 137) echo "The tests were ended after $seconds s; the last lines say where they stood." ;;
    *) echo "cargo ended with status $status though no test failed: the build, or a test binary that crashed." ;;
    esac
    failed=1
elif [ "$failed" -gt 0 ]; then
    echo "Failed:"
    awk '/^test .* \.\.\. FAILED$/ { print "  " $2 }' "$log" | sort -u
fi
if [ "$skipped" -gt 0 ]; then
    echo "Did not run, for want of Apache Kafka, the Python clients or valgrind ($skipped):"
    sed -n 's/.*SKIPPED (no \(Apache Kafka\|Python clients\|valgrind\)) /  /p' "$log" | sort -u
fi
if [ "$ignored" -gt 0 ]; then
    echo "Marked as ignored: $ignored"
fi
if [ "$required" = 1 ] && [ "$#" -eq 0 ] && { [ "$nodes" -eq 0 ] || [ "$skipped" -gt 0 ]; }; then
    echo "The lanes of other systems are required here and did not run in full ($nodes nodes of Apache Kafka started, $skipped tests skipped)."
    failed=$((failed + 1))
fi
echo "Took $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s; Apache Kafka was started $nodes times. Output: $log"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
