//! The path by stage: each counted instruction belongs to the stage whose code it was inlined from.
//!
//! callgrind says how often each instruction ran, and addr2line which functions are inlined there, the innermost first. The
//! first of them that a rule knows decides. What no rule knows (libraries, windows of memory) belongs to whoever called it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

/// Where a request's instructions go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    /// The available ring, the chain, the header.
    Take,
    /// What it may do, and its memory.
    Decide,
    /// The command, and its place among those in flight.
    Encode,
    /// The software controller's own execution.
    Controller,
    /// The completion, the memory's way back, the status, the used entry.
    Complete,
    /// The used index, and whether the driver is to be told.
    Publish,
    /// What is done once in each pass.
    Pass,
    /// What belongs to none of these.
    Other,
}

impl Stage {
    pub(crate) const ALL: [(Stage, &'static str); 8] = [
        (Stage::Take, "take: available ring, chain, header"),
        (Stage::Decide, "decide and mediate"),
        (Stage::Encode, "encode: command, in-flight table, submission queue"),
        (Stage::Controller, "software controller, without the copy"),
        (Stage::Complete, "complete: completion queue, release, status, used entry"),
        (Stage::Publish, "publish: used index"),
        (Stage::Pass, "once in each pass"),
        (Stage::Other, "other"),
    ];
}

/// Instructions by stage, all in all.
pub(crate) type Stages = BTreeMap<Stage, f64>;

/// The stage of a function in a file. `None`: the one that it was inlined into decides. `often`: it ran for each request.
fn rule(function: &str, file: &str, often: bool) -> Option<Stage> {
    let of = |names: &[&str]| names.contains(&function.split('<').next().unwrap_or(function));
    let place = file.rsplit_once("/src/").map_or(file, |_| file);
    let is = |end: &str| place.ends_with(end);
    Some(if place.contains("/soft/src/") {
        Stage::Controller
    } else if is("/session/src/virtqueue/ring.rs") {
        match function {
            _ if of(&["give"]) => Stage::Complete,
            _ if of(&["publish"]) => Stage::Publish,
            _ => Stage::Take,
        }
    } else if ["/virtqueue/chain.rs", "/memory/copy.rs", "/queue/take.rs"].iter().any(|end| is(end)) {
        Stage::Take
    } else if is("/session/src/memory/account.rs") {
        match function {
            _ if of(&["release", "write_pinned", "give_back"]) => Stage::Complete,
            _ if of(&["slot_of"]) => return None,
            _ => Stage::Decide,
        }
    } else if is("/session/src/queue/flight.rs") {
        match function {
            _ if of(&["end_well", "end"]) => Stage::Complete,
            _ if of(&["start"]) => Stage::Decide,
            _ => Stage::Take,
        }
    } else if is("/session/src/queue/decide.rs") || place.contains("/policy/src/") {
        Stage::Decide
    } else if is("/session/src/queue/mod.rs") {
        match function {
            _ if of(&["complete_one", "answer", "release_one"]) => Stage::Complete,
            _ if of(&["publish"]) => Stage::Publish,
            _ => Stage::Take,
        }
    } else if is("/src/nvme/ring.rs") {
        if of(&["push_words", "take_tail"]) { Stage::Encode } else { Stage::Complete }
    } else if is("/src/nvme/inflight.rs") {
        match function {
            _ if of(&["vacant", "cid", "put"]) => Stage::Encode,
            _ if of(&["take_if", "slot"]) => Stage::Complete,
            _ => return None,
        }
    } else if is("/src/nvme/complete.rs") {
        Stage::Complete
    } else if is("/src/nvme/encode.rs")
        || is("/src/nvme/transfer.rs")
        || is("/src/nvme/pair.rs")
        || is("/src/nvme/issuing.rs")
    {
        if of(&["in_flight", "runs_here", "capacity", "run"]) { Stage::Pass } else { Stage::Encode }
    } else if is("/src/server/worker/roster.rs") && of(&["publish"]) {
        Stage::Publish
    } else if place.contains("/src/server/worker") {
        // What is done there for each request moves it from one stage to the next.
        match function {
            _ if !often => Stage::Pass,
            _ if of(&["quick", "go_on"]) => Stage::Take,
            _ => Stage::Complete,
        }
    } else if place.contains("/benches/path/") {
        Stage::Pass
    } else {
        return None;
    })
}

/// One line of a profile.
enum Line<'a> {
    /// So many instructions of a function, at an address.
    Own { function: &'a str, here: bool, at: u64, count: f64 },
    /// So many instructions of what was called there, all in all.
    Call { function: &'a str, here: bool, at: u64, callee: &'a str, count: f64 },
}

/// The lines of a profile of callgrind's, written with addresses and without abbreviations. `here`: in this program.
fn lines<'a>(profile: &'a str, program: &str) -> Vec<Line<'a>> {
    let (mut function, mut here, mut callee, mut is_call) = ("", false, "", false);
    let mut all = Vec::new();
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            here = object == program;
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if let Some(words) = line.strip_prefix("0x") {
            let Some((at, count)) = words.split_once(' ') else { continue };
            let (Ok(at), Ok(count)) = (u64::from_str_radix(at, 16), count.trim().parse()) else { continue };
            all.push(if std::mem::take(&mut is_call) {
                Line::Call { function, here, at, callee, count }
            } else {
                Line::Own { function, here, at, count }
            });
        }
    }
    all
}

/// For each address the functions that are inlined there with their files, the innermost first.
fn frames(program: &Path, addresses: &BTreeSet<u64>) -> Result<BTreeMap<u64, Vec<(String, String)>>> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-i", "-f", "-C", "-e"])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("addr2line: {e} (apt-get install binutils)"))?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let text: String = addresses.iter().map(|at| format!("{at:#x}\n")).collect();
    // Written beside, so that neither waits for the other.
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| "addr2line: no input")??;
    let (mut all, mut at) = (BTreeMap::<u64, Vec<(String, String)>>::new(), None);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(digits) = line.strip_prefix("0x") {
            at = u64::from_str_radix(digits, 16).ok();
            continue;
        }
        let place = lines.next().unwrap_or_default();
        let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
        if let Some(at) = at {
            all.entry(at).or_default().push((line.to_owned(), file.to_owned()));
        }
    }
    Ok(all)
}

/// Divides a profile among the stages. `requests`: how many were counted.
pub(crate) fn divide(profile: &str, program: &Path, requests: f64) -> Result<Stages> {
    let lines = lines(profile, &program.display().to_string());
    let mut addresses = BTreeSet::new();
    let mut ran = BTreeMap::new();
    for line in &lines {
        match line {
            Line::Own { here: true, at, count, .. } => {
                addresses.insert(*at);
                *ran.entry(*at).or_insert(0.0) += count;
            }
            Line::Call { here: true, at, .. } => {
                addresses.insert(*at);
            }
            _ => {}
        }
    }
    let frames = frames(program, &addresses)?;
    let stage = |at: u64| {
        let often = ran.get(&at).copied().unwrap_or(0.0) >= requests / 2.0;
        let name = |function: &str| function.rsplit("::").next().unwrap_or(function).to_owned();
        frames.get(&at)?.iter().find_map(|(function, file)| rule(&name(function), file, often))
    };
    // Functions that no rule knows at all belong to whoever calls them.
    let known: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Own { function, here: true, at, .. } if stage(*at).is_some() => Some(*function),
            _ => None,
        })
        .collect();
    let mut stages: Stages = BTreeMap::new();
    for line in &lines {
        let (at, count) = match line {
            Line::Own { function, here: true, at, count } if known.contains(function) => (at, count),
            Line::Call { function, here: true, at, callee, count }
                if known.contains(function) && !known.contains(callee) =>
            {
                (at, count)
            }
            _ => continue,
        };
        *stages.entry(stage(*at).unwrap_or(Stage::Other)).or_insert(0.0) += count;
    }
    Ok(stages)
}
