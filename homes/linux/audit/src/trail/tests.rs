use std::fs::OpenOptions;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::{Line, Verified, verify};

const PATIENCE: Duration = Duration::from_secs(10);

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).append(true).create(true).open(path).unwrap()
}

fn read(path: &Path) -> (Verified, Vec<Line>) {
    let mut lines = Vec::new();
    let verified =
        verify(BufReader::new(File::open(path).unwrap()), None, |line| lines.push(line.clone())).unwrap();
    (verified, lines)
}

fn grant(session: u64) -> Record {
    Record { session: Some(session), ..Record::of(Event::Grant) }
}

#[test]
fn records_are_written_in_order_and_go_on_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    for round in 0..3 {
        let trail = Trail::start(open(&path), false, || {}).unwrap();
        (0..10).for_each(|n| trail.note(0, grant(round * 10 + n)));
        assert!(trail.close(PATIENCE));
        assert_eq!(trail.head(), read(&path).0.head);
    }
    let (verified, lines) = read(&path);
    assert_eq!((verified.records, verified.gaps, verified.torn), (30, 0, 0));
    assert!(lines.iter().enumerate().all(|(n, line)| line.record.session == Some(n as u64)));
}

#[test]
fn whoever_waits_for_a_record_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rung = Arc::new(AtomicUsize::new(0));
    let bell = Arc::clone(&rung);
    let ring = move || {
        bell.fetch_add(1, Ordering::Relaxed);
    };
    let trail = Trail::start(open(&folder.path().join("audit")), true, ring).unwrap();
    let ticket = trail.wait_for(0, grant(1)).unwrap();
    let until = Instant::now() + PATIENCE;
    while rung.load(Ordering::Relaxed) == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(trail.answers(), [(ticket, true)]);
    assert_eq!(trail.answers(), []);
}

/// `/dev/full` takes nothing: who waits is refused, the rest is counted, and a new file says how many were lost.
#[test]
fn what_cannot_be_written_is_counted_and_said_in_the_next_file() {
    let folder = tempfile::tempdir().unwrap();
    let full = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
    let trail = Trail::start(full, false, || {}).unwrap();
    let ticket = trail.wait_for(0, grant(1)).unwrap();
    trail.note(0, grant(2));
    let until = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    while answers.is_empty() && Instant::now() < until {
        answers = trail.answers();
    }
    assert_eq!(answers, [(ticket, false)]);
    assert_eq!(trail.failed(), Some(io::ErrorKind::StorageFull));
    let path = folder.path().join("audit");
    trail.rotate(open(&path), Record::of(Event::Rotated));
    while trail.failed().is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    trail.note(0, grant(3));
    assert!(trail.close(PATIENCE));
    let (verified, lines) = read(&path);
    assert_eq!(verified.gaps, 1);
    assert_eq!(lines[0].record.count, Some(2), "{lines:?}");
    assert_eq!(lines[1].record.session, Some(3));
}

#[test]
fn a_rotated_file_ends_with_a_record_of_it_and_the_chain_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let trail = Trail::start(open(&old), false, || {}).unwrap();
    trail.note(0, grant(1));
    while trail.head().seq < 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let ticket = trail.rotate(open(&new), Record { why: Some("new".into()), ..Record::of(Event::Rotated) });
    let mut answers = Vec::new();
    while answers.is_empty() {
        answers = trail.answers();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((answers, trail.head().seq), (vec![(ticket, true)], 2));
    trail.note(0, grant(2));
    assert!(trail.close(PATIENCE));
    let ((_, first), (_, second)) = (read(&old), read(&new));
    assert_eq!(first.last().unwrap().record.event, Event::Rotated);
    assert_eq!(second[0].seq, 3);
    let both = std::fs::read_to_string(&old).unwrap() + &std::fs::read_to_string(&new).unwrap();
    assert_eq!(verify(both.as_bytes(), Some(trail.head()), |_| {}).unwrap().records, 3);
}

#[test]
fn refusals_do_not_push_out_grants() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    // Nobody reads from it, so the writer is soon stuck in it.
    let (reader, writer) = io::pipe().unwrap();
    let trail = Trail::start(File::from(std::os::fd::OwnedFd::from(writer)), false, || {}).unwrap();
    let mut refusals = 0;
    for _ in 0..20_000 {
        refusals += usize::from(
            trail.put(0, Record { errno: Some(13), ..Record::of(Event::Refusal) }, true).is_some(),
        );
    }
    assert!(refusals < 20_000, "they are bounded");
    for n in 0..100 {
        assert!(trail.wait_for(0, grant(n)).is_some(), "{n}");
    }
    let copy = std::thread::spawn({
        let path = path.clone();
        move || io::copy(&mut { reader }, &mut File::create(path).unwrap())
    });
    assert!(trail.close(PATIENCE));
    drop(trail);
    copy.join().unwrap().unwrap();
    let (verified, lines) = read(&path);
    assert!(verified.gaps > 0);
    assert_eq!(lines.iter().filter(|l| l.record.event == Event::Grant).count(), 100);
}

/// Storage hangs, and one tenant mints and closes as fast as it can: it has its own part of what is kept until then.
#[test]
fn a_tenant_s_grants_do_not_push_out_another_s() {
    // Nobody reads from it, so the writer is soon stuck in it.
    let (reader, writer) = io::pipe().unwrap();
    let trail = Trail::start(File::from(std::os::fd::OwnedFd::from(writer)), false, || {}).unwrap();
    // It is stuck when no more is taken, whatever it took before.
    let mut refused = 0;
    for n in 0..200_000 {
        refused = if trail.wait_for(1, grant(n)).is_none() { refused + 1 } else { 0 };
        if refused > 20_000 {
            break;
        }
    }
    assert!(refused > 20_000, "it has a bound");
    for n in 0..500 {
        assert!(trail.wait_for(2, grant(n)).is_some() && trail.wait_for(0, grant(n)).is_some(), "{n}");
    }
    drop((reader, trail));
}

#[test]
fn a_file_that_was_removed_counts_as_none_and_another_says_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let trail = Trail::start(open(&path), false, || {}).unwrap();
    std::fs::remove_file(&path).unwrap();
    let ticket = trail.wait_for(0, grant(1)).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    while answers.is_empty() && Instant::now() < until {
        answers = trail.answers();
    }
    assert_eq!((answers, trail.failed()), (vec![(ticket, false)], Some(io::ErrorKind::NotFound)));
    trail.rotate(open(&path), Record::of(Event::Rotated));
    while trail.failed().is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(trail.close(PATIENCE));
    let (verified, lines) = read(&path);
    assert_eq!((verified.gaps, lines[0].record.count), (1, Some(1)), "{lines:?}");
}

#[test]
fn a_file_that_is_something_else_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    for (text, foreign) in
        [("", false), ("{\"v", false), ("{\"v\":1,\"se", false), ("root:x", true), ("\n", true)]
    {
        std::fs::write(&path, text).unwrap();
        assert_eq!(crate::is_foreign(File::open(&path).unwrap()).unwrap(), foreign, "{text:?}");
    }
}
