#!/usr/bin/env bash
# Prometheus' own Python library renames counters: what it reads is not what it writes, and two metrics become one.
#
# Version: python3-prometheus-client 0.16.0 of Debian 12.
# Behaviour: the text format of Prometheus lets a counter have any name. The library's parser of that format puts "_total" behind the name of each sample of a counter that has none. A page that goes
# through it (parse, filter, generate_latest, as exporters that pass on another's page do) has other series than before, in which no query and no alert finds the old name. A page with
# a counter "reads" and one "reads_total", two metrics in Prometheus, comes out with two families of one name, and the TYPE line twice. Gauges keep their names.
#
# Seen: reads 3 comes out as reads_total 3.0; with reads_total 4 beside it, "# TYPE reads_total counter" twice, reads_total 3.0 and reads_total 4.0, without any difference in labels
set -euo pipefail
export LC_ALL=C.UTF-8

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download python3-prometheus-client=0.16.0-0.1 >log 2>&1 || { cat log >&2; exit 1; }
dpkg -x ./*.deb root

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || { printf '%s is not what it was:\n%s\nbut:\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}

cat >pass.py <<'END'
import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()


class Page:
    def collect(self):
        return text_string_to_metric_families(text)


registry = CollectorRegistry()
registry.register(Page())
sys.stdout.write(generate_latest(registry).decode())
END
pass() { PYTHONPATH=$dir/root/usr/lib/python3/dist-packages python3 pass.py; }

same 'a gauge' '# HELP depth Requests.
# TYPE depth gauge
depth 2.0' "$(printf '# HELP depth Requests.\n# TYPE depth gauge\ndepth 2\n' | pass)"
same 'a counter' '# HELP reads_total Reads.
# TYPE reads_total counter
reads_total 3.0' "$(printf '# HELP reads Reads.\n# TYPE reads counter\nreads 3\n' | pass)"
same 'two counters' '# HELP reads_total Served.
# TYPE reads_total counter
reads_total 3.0
# HELP reads_total All.
# TYPE reads_total counter
reads_total 4.0' "$(printf '# HELP reads Served.\n# TYPE reads counter\nreads 3\n# HELP reads_total All.\n# TYPE reads_total counter\nreads_total 4\n' | pass)"
echo "as it was: reads is reads_total after a passage through the library"
