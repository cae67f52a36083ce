//! `doc/promises.md` names tests. A test that was renamed or went must not go on being named there.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../doc/promises.md");

/// A test as the page names it, with the line.
#[derive(Debug)]
struct Named {
    line: usize,
    /// A file, or a folder any file of which may have it.
    place: PathBuf,
    test: String,
}

/// What stands between backticks in a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The tests that the page names: each belongs to the file that was named last, which lies in the folder that the section's
/// comment `<!-- in: FOLDER -->` says, or in the root of the tree.
fn named(page: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut folder = PathBuf::new();
    for (number, line) in page.lines().enumerate() {
        if line.starts_with('#') {
            folder = PathBuf::new();
        }
        if let Some(section) = line.strip_prefix("<!-- in: ").and_then(|l| l.strip_suffix(" -->")) {
            folder = section.into();
        }
        let Some(held_by) = line.strip_prefix("| ").and_then(|row| row.split(" | ").nth(1)) else { continue };
        let mut place = None;
        for word in words(held_by) {
            if word == "cargo xtask units" {
                place = Some(PathBuf::from("xtask/src/units"));
            } else if word == "cargo xtask vm" {
                place = Some(PathBuf::from("xtask/src/vm"));
            } else if word.ends_with(".rs") && word.contains('/') {
                place = Some(PathBuf::from(word));
            } else if word.ends_with(".rs") {
                place = Some(folder.join(word));
            } else if let Some(place) = &place {
                let test = word.replace(' ', "_");
                found.push(Named { line: number + 1, place: place.clone(), test });
            }
        }
    }
    found
}

/// The text of a file, or of all Rust files in a folder.
fn text(place: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join(place);
    if !place.is_dir() {
        return fs::read_to_string(&place).unwrap_or_default();
    }
    let files = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.is_file()).map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// What is named and is not there.
fn missing(page: &str) -> Vec<String> {
    named(page)
        .iter()
        .filter(|named| {
            let text = text(&named.place);
            // A check in the virtual machine is told by its words.
            let words = named.test.replace('_', " ");
            let is_there = text.contains(&format!("fn {}(", named.test))
                || (named.place.starts_with("xtask") && text.contains(&words));
            !is_there
        })
        .map(|named| format!("line {}: {} has no {}", named.line, named.place.display(), named.test))
        .collect()
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let named = named(PAGE);
    assert!(named.len() > 250, "only {} tests are named", named.len());
    let missing = missing(PAGE);
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn a_test_that_does_not_exist_is_found_out() {
    let known = "| x | `policy/src/grant.rs`: `a_read_only_grant_makes_no_permit` |\n";
    assert!(missing(known).is_empty());
    let unknown = known.replace("makes_no", "makes_a");
    assert_eq!(missing(&unknown).len(), 1);
    let elsewhere = known.replace("grant.rs", "extent.rs");
    assert_eq!(missing(&elsewhere).len(), 1);
    let folder = "<!-- in: tests/hostile -->\n| x | `tables.rs`: `no_such_test_at_all` |\n";
    assert_eq!(missing(folder), ["line 2: tests/hostile/tables.rs has no no_such_test_at_all"]);
}

#[test]
fn every_promise_names_what_holds_it() {
    for (number, line) in PAGE.lines().enumerate() {
        let Some(row) =
            line.strip_prefix("| ").filter(|r| !r.starts_with("---") && !r.contains("| held by |"))
        else {
            continue;
        };
        assert!(
            row.split(" | ").nth(1).is_some_and(|held| held.contains(".rs`") || held.contains("xtask")),
            "line {}",
            number + 1
        );
    }
}

/// The judges of the simulator, as `sim` names them.
fn judges() -> Vec<String> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/src/judge/mod.rs")).unwrap();
    let body = text.split("pub enum Judge {").nth(1).unwrap().split('}').next().unwrap();
    let names = body.lines().filter_map(|line| line.trim().strip_suffix(','));
    names.map(str::to_lowercase).collect()
}

/// What is wrong with the third column of a promise about memory or disks: it names judges of the simulator, and no other.
fn unjudged(page: &str, judges: &[String]) -> Vec<String> {
    let (mut is_judged, mut wrong) = (false, Vec::new());
    for (number, line) in page.lines().enumerate() {
        if let Some(section) = line.strip_prefix("## ") {
            is_judged = matches!(section, "Disks" | "Memory");
        }
        let row = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |"));
        let Some(row) = row.filter(|row| is_judged && !row.starts_with("---")) else { continue };
        let judge = row.split(" | ").nth(2).unwrap_or_default();
        let named: Vec<&str> = words(judge).collect();
        let known = |name: &&str| judges.iter().any(|judge| judge == name);
        let is_header = judge == "judge of the simulator";
        if !is_header && (named.is_empty() || !named.iter().all(known)) {
            wrong.push(format!("line {}: {judge:?}", number + 1));
        }
    }
    wrong
}

#[test]
fn every_promise_of_memory_and_disks_names_a_judge_of_the_simulator() {
    let judges = judges();
    assert_eq!(judges, ["colour", "model", "life", "authority", "itself"]);
    let wrong = unjudged(PAGE, &judges);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The page about the simulator says of each what it holds.
    let page = include_str!("../doc/simulator.md");
    assert!(judges.iter().all(|judge| page.contains(&format!("\n| {judge} | "))), "{judges:?}");
}

#[test]
fn a_judge_that_does_not_exist_or_none_is_found_out() {
    let judges = judges();
    let row = |judge: &str| format!("## Memory\n\n| x | `y` |{judge}\n## Rings\n\n| x | `y` |\n");
    for good in [" `colour` |", " `model`, `life` |"] {
        assert_eq!(unjudged(&row(good), &judges), Vec::<String>::new(), "{good}");
    }
    for wrong in [" `colours` |", " none: it is one thread |", " colour |", "", " `colour`, `taste` |"] {
        assert_eq!(unjudged(&row(wrong), &judges).len(), 1, "{wrong}");
    }
}
