#!/usr/bin/env bash
# The OpenMetrics text of prometheus-client, the client library of the Prometheus project itself, does not pass the project's own `promtool check metrics`.
#
# Versions: crate prometheus-client 0.24.0, promtool 2.42.0 (package prometheus of Debian 12). Needs cargo.
# Behaviour: the crate writes HELP and TYPE of a counter under the name without "_total", as OpenMetrics asks for; promtool reads the older text format, where such a line
# belongs to another metric: it complains of each counter, "no help text", and ends with 3, though each has one. An Info metric, which the crate
# offers, makes it stop: 'unknown metric type "info"', status 1, and nothing after that line is looked at. Gauges pass. The last line, "# EOF", is a comment to it.
# Who lints OpenMetrics with it sees faults that are none, or has to leave out what the format has.
#
# Seen: counters "reads_total no help text", status 3; with an info "text format parsing error in line 9: unknown metric type "info"", status 1; a gauge alone 0
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download prometheus=2.42.0+ds-5+deb12u1 >log 2>&1 || { cat log >&2; exit 1; }
dpkg -x ./*.deb root
promtool=root/usr/bin/promtool

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

mkdir -p writer/src
cat >writer/Cargo.toml <<'END'
[package]
name = "writer"
version = "0.1.0"
edition = "2021"
[dependencies]
prometheus-client = "=0.24.0"
[workspace]
END
cat >writer/src/main.rs <<'END'
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, info::Info};
use prometheus_client::registry::{Registry, Unit};

fn main() {
    let what = std::env::args().nth(1).unwrap();
    let mut registry = Registry::default();
    if what != "gauge" {
        registry.register("reads", "Reads served", Counter::<u64>::default());
        registry.register_with_unit("read", "What was read", Unit::Bytes, Counter::<u64>::default());
    }
    if what == "info" {
        registry.register("drive", "The drive", Info::new(vec![("model", "x")]));
    }
    registry.register("depth", "Requests in flight", Gauge::<i64>::default());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    print!("{text}");
}
END
CARGO_TARGET_DIR=$dir/target cargo build --quiet --manifest-path writer/Cargo.toml >log 2>&1 || { cat log >&2; exit 1; }

# check WHAT: what promtool says, and its status
check() {
    local status=0
    target/debug/writer "$1" >text
    "$promtool" check metrics <text >said 2>&1 || status=$?
    echo "$(sort said | paste -s -d ';') $status"
}

target/debug/writer info >text
same 'the text' '# HELP reads Reads served.
# TYPE reads counter
reads_total 0
# HELP read_bytes What was read.
# TYPE read_bytes counter
# UNIT read_bytes bytes
read_bytes_total 0
# HELP drive The drive.
# TYPE drive info
drive_info{model="x"} 1
# HELP depth Requests in flight.
# TYPE depth gauge
depth 0
# EOF' "$(<text)"
same 'what promtool says of a gauge' ' 0' "$(check gauge)"
same 'of counters' 'read_bytes_total no help text;reads_total no help text 3' "$(check counter)"
same 'of an info' 'error while linting: text format parsing error in line 9: unknown metric type "info" 1' "$(check info)"
echo "as it was: promtool finds fault with the OpenMetrics text of prometheus-client"
