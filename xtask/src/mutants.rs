//! `cargo xtask mutants`: faults planted in the product, which the simulator or a test is to find.
//!
//! All of `sim/mutants/planted.txt` is built at once, in a copy of the sources, each fault behind a number; then one at a time is let loose: before the simulator, for so
//! many seconds of CPU, and before the test that is named for it, where the simulator is not to find it. No build of the product has any of it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::root;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Seconds of CPU that the simulator has for each.
const SECONDS: u64 = 40;
/// Seconds of CPU in which a test that is named passes without a fault, and fails with its own.
const TESTS: u64 = 60;
/// Seconds after which something that sleeps is taken for what never wakes: many, since the machine may do other things.
const HANGS: &str = "1800";

/// A fault: what it is, what the simulator is told besides, which test finds it, and why it is no loss if nobody does.
struct Planted {
    number: u32,
    title: String,
    words: Option<String>,
    test: Option<String>,
    excuse: Option<String>,
}

/// A place in the sources, and what is put there.
struct Patch {
    file: String,
    old: Vec<String>,
    new: Vec<String>,
}

/// How it is run.
struct Plan {
    /// Of these alone, where there are any.
    only: Vec<u32>,
    /// Tests that are named are run also where the simulator finds the fault.
    tests: bool,
    seconds: u64,
    /// What the simulator is built with: `sim`, or what is built sooner and runs longer.
    profile: String,
    /// Faults at a time.
    jobs: usize,
}

const HELP: &str = "cargo xtask mutants [--tests] [--cpu SECONDS] [--profile NAME] [--jobs N] [N | A-B …]";

fn plan(words: &[String]) -> Outcome<Plan> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut plan = Plan { only: Vec::new(), tests: false, seconds: SECONDS, profile: "sim".into(), jobs };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{HELP}"));
        match word.as_str() {
            "--tests" => plan.tests = true,
            "--cpu" => plan.seconds = value()?.parse()?,
            "--profile" => plan.profile.clone_from(value()?),
            "--jobs" => plan.jobs = value()?.parse()?,
            numbers => {
                let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
                plan.only.extend(first.parse::<u32>().map_err(|_| HELP)?..=last.parse().map_err(|_| HELP)?);
            }
        }
    }
    Ok(plan)
}

/// What became of a fault.
enum Fate {
    /// A judge found it, and said so.
    Found(String, String),
    /// The test that is named for it fails, in that way.
    Tested(&'static str),
    /// It does not.
    Untested,
    Unfound,
}

fn try_out(tree: &Path, plan: &Plan, fault: &Planted) -> Outcome<Fate> {
    let found = let_loose(plan, fault)?;
    let Some(test) = fault.test.as_ref().filter(|_| plan.tests || found.is_none()) else {
        return Ok(found.map_or(Fate::Unfound, |(judge, said)| Fate::Found(judge, said)));
    };
    Ok(match (fails(tree, fault.number, test)?, found) {
        (None, _) => Fate::Untested,
        (Some(_), Some((judge, said))) => Fate::Found(judge, said),
        (Some(how), None) => Fate::Tested(how),
    })
}

pub(crate) fn mutants(words: &[String]) -> Outcome<()> {
    let plan = plan(words)?;
    let (faults, patches) = parse(&fs::read_to_string(root().join("sim/mutants/planted.txt"))?)?;
    let tree = root().join("target/mutants");
    plant(&tree, &patches)?;
    let build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&tree)
        .args(["build", "--quiet", "--profile", &plan.profile, "-p", "nvme-sim", "--features", "planted"])
        .arg("--target-dir")
        .arg(root().join("target/mutants-built"))
        .status()?;
    if !build.success() {
        return Err("the planted sources do not build".into());
    }
    let all: Vec<&Planted> =
        faults.iter().filter(|f| plan.only.is_empty() || plan.only.contains(&f.number)).collect();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.clamp(1, all.len().max(1)) {
            scope.spawn(|| {
                while let Some(fault) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fate = try_out(&tree, &plan, fault);
                    tally.lock().unwrap_or_else(PoisonError::into_inner).count(fault, fate);
                }
            });
        }
    });
    let Tally { judges, tests, harmless, missed } =
        tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    let alone: u32 = judges.values().sum();
    println!(
        "{} faults: {alone} found by the simulator {judges:?}, {tests} by tests, {harmless} harmless, {missed} not found",
        alone + tests + harmless + missed
    );
    if missed == 0 { Ok(()) } else { Err(format!("{missed} planted faults were not found").into()) }
}

/// How many were found, and by whom.
#[derive(Default)]
struct Tally {
    judges: BTreeMap<String, u32>,
    tests: u32,
    harmless: u32,
    missed: u32,
}

impl Tally {
    fn count(&mut self, fault: &Planted, fate: Outcome<Fate>) {
        let Planted { number, title, test, excuse, .. } = fault;
        let test = test.as_deref().unwrap_or_default();
        let (count, said) = match (fate, excuse) {
            (Ok(Fate::Found(judge, said)), _) => (self.judges.entry(judge).or_default(), said),
            (Ok(Fate::Tested(how)), _) => (&mut self.tests, format!("{test} {how}")),
            (Ok(Fate::Untested), _) => (&mut self.missed, format!("NOT FOUND by {test}")),
            (Ok(Fate::Unfound), Some(excuse)) => (&mut self.harmless, format!("not found; {excuse}")),
            (Ok(Fate::Unfound), None) => (&mut self.missed, "NOT FOUND".into()),
            (Err(why), _) => (&mut self.missed, why.to_string()),
        };
        *count += 1;
        println!("{number:3} {title}: {said}");
    }
}

/// A command whose processes have so many seconds of CPU each, and come to an end at some time.
fn bounded(seconds: u64) -> Command {
    let mut command = Command::new("timeout");
    command.args([HANGS, "sh", "-c", &format!("ulimit -t {seconds} && exec \"$@\""), "sh"]);
    command
}

/// How a test fails with that fault, if it does. It passes without any.
fn fails(tree: &Path, number: u32, test: &str) -> Outcome<Option<&'static str>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |mut command: Command, more: &[&str], number: u32| -> Outcome<Output> {
        command.arg(&cargo).current_dir(tree).env("PLANTED", number.to_string());
        command.args(["test", "--quiet"]).args(more).args(test.split(' '));
        Ok(command.arg("--target-dir").arg(root().join("target/mutants-tests")).output()?)
    };
    // It is built for as long as that takes.
    run(Command::new("env"), &["--no-run"], 0)?;
    let without = run(bounded(TESTS), &[], 0)?;
    let text = String::from_utf8_lossy(&without.stdout).into_owned();
    if !without.status.success() || !text.contains(" 1 passed") {
        let said = String::from_utf8_lossy(&without.stderr).into_owned();
        return Err(format!("without a fault, {test} does not pass: {text}{said}").into());
    }
    let with = run(bounded(TESTS), &[], number)?;
    let text = String::from_utf8_lossy(&with.stdout).into_owned();
    let said = String::from_utf8_lossy(&with.stderr).into_owned();
    Ok(match with.status.code() {
        Some(0) => None,
        Some(124) => Some("does not come to an end"),
        _ if said.contains("SIGXCPU") => Some("goes on and on"),
        _ => text.contains("FAILED").then_some("fails"),
    })
}

/// Runs the simulator with that fault. Which judge found it, and what it said.
fn let_loose(plan: &Plan, fault: &Planted) -> Outcome<Option<(String, String)>> {
    let folder = if plan.profile == "dev" { "debug" } else { &plan.profile };
    // It ends by itself soon after its time is over, unless a world of it does not.
    let run = bounded(2 * plan.seconds + TESTS)
        .arg(root().join("target/mutants-built").join(folder).join("nvme-sim"))
        .args(["--quick", "--seed", "1", "--cpu", &plan.seconds.to_string()])
        .args(["--planted", &fault.number.to_string()])
        .args(fault.words.iter().flat_map(|words| words.split(' ')))
        .output()?;
    if run.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let Some(line) = text.lines().find(|line| line.contains(" steps: ")) else {
        return Ok(Some(("Itself".into(), format!("it does not come to an end: {}", run.status))));
    };
    let said = line.split(" steps: ").nth(1).unwrap_or_default().to_owned();
    let judge = said.split(':').next().unwrap_or_default().to_owned();
    let after = text.lines().find(|line| line.starts_with("found in")).unwrap_or_default();
    Ok(Some((judge, format!("{after}: {}", said.chars().take(120).collect::<String>()))))
}

fn parse(text: &str) -> Outcome<(Vec<Planted>, Vec<Patch>)> {
    let (mut faults, mut patches) = (Vec::<Planted>::new(), Vec::<Patch>::new());
    for line in text.lines() {
        match line.split_at_checked(2) {
            Some(("# ", rest)) => {
                let Some((number, title)) = rest.split_once(' ') else { continue };
                let Ok(number) = number.parse() else { continue };
                faults.push(Planted { number, title: title.into(), words: None, test: None, excuse: None });
            }
            Some(("@ ", file)) => {
                patches.push(Patch { file: file.into(), old: Vec::new(), new: Vec::new() });
            }
            Some(("- ", old)) => patches.last_mut().ok_or("no file yet")?.old.push(old.into()),
            Some(("+ ", new)) => patches.last_mut().ok_or("no file yet")?.new.push(new.into()),
            Some(("> ", words)) => faults.last_mut().ok_or("no fault yet")?.words = Some(words.into()),
            Some(("? ", test)) => faults.last_mut().ok_or("no fault yet")?.test = Some(test.into()),
            Some(("! ", excuse)) => faults.last_mut().ok_or("no fault yet")?.excuse = Some(excuse.into()),
            _ => {}
        }
    }
    Ok((faults, patches))
}

/// The sources as they are in the working tree, with all faults in them; what is the same as before stays untouched, so that little is built anew.
fn plant(tree: &Path, patches: &[Patch]) -> Outcome<()> {
    let mut planted = BTreeMap::<&str, String>::new();
    for patch in patches {
        let before = planted.remove(patch.file.as_str());
        let before = before.map_or_else(|| fs::read_to_string(root().join(&patch.file)), Ok)?;
        planted.insert(&patch.file, patched(&before, patch)?);
    }
    for (file, prepared) in PREPARED {
        let before = planted.remove(file).map_or_else(|| fs::read_to_string(root().join(file)), Ok)?;
        planted.insert(file, prepared(before));
    }
    let listed = Command::new("git").current_dir(root()).args(["ls-files", "-z"]).output()?;
    for file in String::from_utf8(listed.stdout)?.split('\0').filter(|file| !file.is_empty()) {
        let path = tree.join(file);
        match planted.get(file) {
            Some(text) => write(&path, text.as_bytes())?,
            None => fs::read(root().join(file)).map_or(Ok(()), |bytes| write(&path, &bytes))?,
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, bytes)?)
}

/// A file's text with a fault in it.
fn patched(text: &str, patch: &Patch) -> Outcome<String> {
    let old = patch.old.join("\n");
    if !text.contains(&old) {
        return Err(
            format!("{}: there is no {old:?} any more; mend sim/mutants/planted.txt", patch.file).into()
        );
    }
    let new = patch.new.join("\n").replace("planted(", "nvme_mem::planted(");
    Ok(text.replacen(&old, &new, 1))
}

/// A file, and what is made of its text.
type Prepared = (&'static str, fn(String) -> String);

/// Which fault is loose is a number in the crate that all others have.
const PREPARED: [Prepared; 4] = [
    ("platform/mem/src/lib.rs", |text| text + ASKED),
    ("policy/Cargo.toml", asks),
    ("src/Cargo.toml", asks),
    ("homes/linux/handover/Cargo.toml", asks),
];

const ASKED: &str = "
/// Which planted fault is let loose; none, before the environment was asked.
pub static PLANTED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(u32::MAX);

/// Whether that one is.
#[inline]
pub fn planted(number: u32) -> bool {
    let mut loose = PLANTED.load(core::sync::atomic::Ordering::Relaxed);
    if loose == u32::MAX {
        extern crate std;
        loose = std::env::var(\"PLANTED\").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        PLANTED.store(loose, core::sync::atomic::Ordering::Relaxed);
    }
    loose == number
}
";

/// A package that is to ask for it.
fn asks(manifest: String) -> String {
    manifest.replacen("[dependencies]\n", "[dependencies]\nnvme-mem.workspace = true\n", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_fault_has_its_place_in_the_sources() {
        let text = fs::read_to_string(root().join("sim/mutants/planted.txt")).unwrap();
        let (faults, patches) = parse(&text).unwrap();
        let mut files = BTreeMap::new();
        for patch in &patches {
            let text = files
                .entry(&patch.file)
                .or_insert_with(|| fs::read_to_string(root().join(&patch.file)).unwrap());
            *text = patched(text, patch).unwrap();
        }
        let all = files.values().flat_map(|text| text.split("nvme_mem::planted(").skip(1));
        let asked: Vec<u32> =
            all.filter_map(|rest| rest.split(')').next().and_then(|number| number.parse().ok())).collect();
        for fault in &faults {
            assert!(asked.contains(&fault.number), "{}: nothing asks for it", fault.number);
        }
    }

    #[test]
    fn a_place_that_is_not_there_any_more_is_refused_and_named() {
        let patch = Patch { file: "a.rs".into(), old: vec!["is gone".into()], new: Vec::new() };
        assert!(patched("all else", &patch).unwrap_err().to_string().starts_with("a.rs: there is no"));
    }
}
