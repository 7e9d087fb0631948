#!/bin/sh
# Fetches the Apache Kafka that the tests run against into target/kafka-<version>/lib, once, by
# Maven, as pinned in tests/kafka/pom.xml. Does nothing when it is there and complete.
#
# Exit codes: 0 it is there; 3 Java 17 or Maven is missing (message says what to install);
# 1 the fetch failed.
set -eu
cd "$(dirname "$0")/.."

pom=tests/kafka/pom.xml
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$pom")
dir=target/kafka-$version
pinned=$(cksum <"$pom")

# The marker holds the checksum of the pom it was filled from and is written last.
if [ -f "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$pinned" ]; then
    exit 0
fi

missing() {
    echo "setup/kafka.sh: $1 is missing, so Apache Kafka cannot be fetched for the tests." >&2
    echo "Install it, for example:  apt-get install -y openjdk-17-jdk-headless maven" >&2
    exit 3
}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" >/dev/null 2>&1 || missing "Java 17"
major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${major:-0}" -ge 17 ] || missing "Java 17 or later (found ${major:-an unknown version})"
command -v mvn >/dev/null 2>&1 || missing "Maven"

echo "Fetching Apache Kafka $version ..." >&2
mkdir -p target
part=$(mktemp -d "target/kafka-part.XXXXXX")
trap 'rm -rf "$part"' EXIT
trap 'exit 1' INT TERM
if ! mvn -q -B -f "$pom" dependency:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$PWD/$part/lib" </dev/null >"$part/mvn.log" 2>&1; then
    cat "$part/mvn.log" >&2
    echo "setup/kafka.sh: Maven could not fetch Apache Kafka $version; the lines above say why." >&2
    exit 1
fi
rm -rf "$dir"
mkdir "$dir"
mv "$part/lib" "$dir/lib"
echo "$pinned" >"$dir/complete"
echo "Apache Kafka $version is in $dir/lib ($(ls "$dir/lib" | wc -l) jars)." >&2
