//! Tests of the logger as a whole.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;

fn say(logger: &Logger, level: Level, target: &str, message: &str) {
    logger.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
}

/// What came through a pipe, line by line.
fn through_a_pipe(verbosity: Verbosity, speak: impl FnOnce(&Logger)) -> Vec<String> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    speak(&Logger::new(writer, verbosity));
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn all_levels(logger: &Logger) {
    for level in Level::iter() {
        say(logger, level, "core", "x");
    }
    say(logger, Level::Info, OPERATOR, "o");
}

#[test]
fn each_step_says_more_and_quiet_says_nothing() {
    let count = |verbosity| through_a_pipe(verbosity, all_levels).len();
    assert_eq!(count(Verbosity::Quiet), 0);
    let normal = through_a_pipe(Verbosity::Normal, all_levels);
    assert_eq!(normal, ["nvme-drv: error: x", "nvme-drv: warning: x", "nvme-drv: o"]);
    assert_eq!(count(Verbosity::Info), 4);
    assert_eq!(count(Verbosity::Debug), 5);
    assert_eq!(count(Verbosity::Trace), 6);
    assert_eq!(Verbosity::from_steps(9), Verbosity::Trace);
    assert_eq!(Verbosity::from_steps(0), Verbosity::default());
}

#[test]
fn refusals_are_bounded_and_the_rest_is_counted() {
    let lines = through_a_pipe(Verbosity::Normal, |logger| {
        for _ in 0..1000 {
            say(logger, Level::Warn, REFUSAL, "no");
        }
        // Into the next second, whatever part of one is over.
        std::thread::sleep(std::time::Duration::from_millis(1001));
        say(logger, Level::Warn, REFUSAL, "no");
    });
    // The thousand may have come in two seconds, if they were near the end of one.
    let said = lines.iter().filter(|line| line.ends_with(": no")).count();
    assert!((11..=21).contains(&said), "{said}");
    let missed: usize = lines
        .iter()
        .filter_map(|line| {
            line.strip_prefix("nvme-drv: ")?.strip_suffix(" more refusals were not shown")?.parse().ok()
        })
        .inspect(|count: &usize| assert!(*count > 0))
        .sum();
    assert_eq!(said + missed, 1001);
}

#[test]
fn the_operator_s_lines_are_bounded_on_their_own() {
    let lines = through_a_pipe(Verbosity::Normal, |logger| {
        for _ in 0..1000 {
            say(logger, Level::Info, OPERATOR, "came");
        }
        say(logger, Level::Warn, REFUSAL, "no");
    });
    let said = lines.iter().filter(|line| line.ends_with(": came")).count();
    // Two seconds, if they were near the end of one.
    assert!((100..=200).contains(&said), "{said}");
    assert!(lines.iter().any(|line| line.ends_with(": no")));
}

#[test]
fn what_the_server_says_of_itself_is_hidden_by_no_flood_and_at_the_end_all_is_counted() {
    let lines = through_a_pipe(Verbosity::Normal, |logger| {
        for _ in 0..1000 {
            say(logger, Level::Info, OPERATOR, "ended");
            say(logger, Level::Warn, REFUSAL, "no");
        }
        say(logger, Level::Info, SERVER, "stopped");
        log::Log::flush(logger);
    });
    assert!(lines.iter().any(|line| line == "nvme-drv: stopped"), "{lines:?}");
    for (said, what) in [(": ended", " more lines were not shown"), (": no", " more refusals were not shown")]
    {
        let shown = lines.iter().filter(|line| line.ends_with(said)).count();
        let missed: usize = lines
            .iter()
            .filter_map(|line| line.strip_prefix("nvme-drv: ")?.strip_suffix(what)?.parse::<usize>().ok())
            .sum();
        assert_eq!(shown + missed, 1000, "{what}");
    }
}

#[test]
fn a_reader_that_does_not_read_blocks_nobody_and_learns_what_it_missed() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let logger = Logger::new(writer, Verbosity::Info);
    for _ in 0..100_000 {
        say(&logger, Level::Info, "core", "a line of some length");
    }
    let mut reader = std::fs::File::from(reader);
    let mut part = vec![0; 1 << 20];
    let first = reader.read(&mut part).unwrap();
    assert!(first >= 4096);
    say(&logger, Level::Info, "core", "the last");
    drop(logger);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(" lines were lost, because nobody read them\nnvme-drv: the last\n"), "{rest}");
}

#[test]
fn a_socket_whose_peer_does_not_read_or_is_gone_blocks_nobody() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let logger = Logger::new(ours.into(), Verbosity::Info);
    for _ in 0..20_000 {
        say(&logger, Level::Info, "core", "a line of some length");
    }
    drop(theirs);
    say(&logger, Level::Info, "core", "to nobody");
}

#[test]
fn the_journal_is_known_by_device_and_inode() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let stat = rustix::fs::fstat(&ours).unwrap();
    let journal = |text: &str| Output::new(ours.try_clone().unwrap().into(), Some(text.as_ref())).journal();
    assert!(journal(&format!("{}:{}", stat.st_dev, stat.st_ino)));
    assert!(!journal(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
    assert!(!journal(""));
    assert!(!Output::new(ours.try_clone().unwrap().into(), None).journal());
}
