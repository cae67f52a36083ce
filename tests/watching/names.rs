//! One set of names, wherever numbers are shown.

use nvme_linux::inventory::{Form, NAMES, Scope};
use nvme_session::queue::Fault;

use crate::server::Bench;
use crate::{run, text};

const PAGE: &str = include_str!("../../doc/watching.md");

#[test]
fn the_page_s_table_is_the_table_of_names() {
    let rows: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `nvme_drv_")).collect();
    let expected: Vec<String> = NAMES
        .iter()
        .map(|name| {
            let form = match name.form {
                Form::Counter => "counter",
                Form::Gauge => "gauge",
                Form::Histogram => "histogram",
            };
            let kind = match (name.by_kind, name.by_status) {
                (true, true) => "by kind and status",
                (true, false) => "by kind",
                _ => "",
            };
            let what = name.what;
            format!("| `{}` | `{}` | {form} | {kind} | {what} |", name.metric(), name.name)
        })
        .collect();
    assert_eq!(rows, expected);
}

/// How a controller calls its failures is told in so many words and no others.
#[test]
fn the_page_has_each_status_that_is_counted() {
    let rows = PAGE.lines().skip_while(|line| *line != "| status | NVMe |").skip(2);
    let words: Vec<&str> =
        rows.map_while(|line| line.strip_prefix("| `")).map(|row| row.split('`').next().unwrap()).collect();
    assert_eq!(words, Fault::ALL.map(Fault::word));
}

/// A dashboard that asks for what is not there shows nothing.
#[test]
fn the_dashboard_asks_for_names_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(include_str!("../../doc/grafana.json")).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("nvme_drv_")) {
            let known = NAMES.iter().any(|name| {
                let suffix = match name.form {
                    Form::Counter => "_total",
                    Form::Gauge => "",
                    Form::Histogram => "_bucket",
                };
                word == name.metric() + suffix
            });
            assert!(known, "{word}");
            asked += 1;
        }
    }
    assert!(asked >= 8, "{asked}");
}

/// The document of `ls`, and what `stat` says, have all names and no others.
#[test]
fn ls_and_stat_show_the_same_names() {
    let bench = Bench::new();
    let _server = bench.serve(&[&bench.socket("ctl")]);
    let session = bench.create(&["device=partlabel:attack"]);
    let ls: serde_json::Value = serde_json::from_slice(&run(&bench, &["ls", "--json"]).stdout).unwrap();
    let output = run(&bench, &["stat", "--json"]);
    let stat: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    for name in NAMES {
        let places = match name.scope {
            Scope::Session => {
                vec![
                    &ls["sessions"][0]["counters"],
                    &stat["sessions"][0]["counters"],
                    &stat["sessions"][0]["rates"],
                ]
            }
            Scope::Worker => vec![&ls["workers"][0], &stat["workers"][0]],
            Scope::Controller => {
                vec![&ls["controllers"][0]["counters"], &stat["controllers"][0]["counters"]]
            }
        };
        for place in places {
            assert!(place.get(name.name).is_some(), "no {} in {place}", name.name);
        }
    }
    drop(session);
}
