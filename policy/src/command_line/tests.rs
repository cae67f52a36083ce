extern crate std;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::device::NoName;
use crate::grant::Access;
use crate::words::Why;

/// All options that there are, and a capability of the program's own.
const ALL: Dialect = Dialect {
    options: &[
        "cap",
        "poll-us",
        "workers",
        "mem-max",
        "sessions-max",
        "help",
        "version",
        "blk-file",
        "socket-path",
        "fd",
        "read-only",
        "print-capabilities",
    ],
    reserved: &["ctl"],
};

fn on(dialect: Dialect, line: &str) -> Result<CommandLine<'_>, OptionError> {
    CommandLine::parse(line.split_ascii_whitespace(), dialect)
}

fn ok(line: &str) -> CommandLine<'_> {
    on(ALL, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn problem(line: &str) -> Problem {
    match on(ALL, line) {
        Err(error) => error.problem,
        Ok(parsed) => panic!("{line}: accepted as {parsed:?}"),
    }
}

#[test]
fn the_manual_s_example_is_a_static_client() {
    let line = ok("--client cl1 --device 88E59675-4DC8-469A-98E4-B7B021DC7FBE --ds-max 5");
    assert_eq!(line.clients.len(), 1);
    let client = &line.clients[0];
    assert_eq!(
        (client.cap, client.policy.ds_max().get(), client.policy.access()),
        ("cl1", 5, Access::ReadWrite)
    );
    assert!(line.trusted.is_empty() && !line.nosgl && line.verbosity == Verbosity::Normal);
}

#[test]
fn values_come_behind_an_equals_sign_or_next() {
    assert_eq!(
        ok("--client=a --device=x:n1 --ds-max=3 --readonly -d ds"),
        ok("--client a --device x:n1 --ds-max 3 --readonly --register-ds=ds")
    );
    assert_eq!(
        CommandLine::parse(["--client=a", "--device=-x y:n1"], Dialect::COMMON).unwrap().clients.len(),
        1
    );
}

#[test]
fn each_client_has_options_of_its_own() {
    let line =
        ok("--client a --device x:n1 -v --readonly --nosgl --client b -d ds1 --ds-max 9 --device=root");
    let said: Vec<_> =
        line.clients.iter().map(|c| (c.cap, c.policy.ds_max().get(), c.policy.access())).collect();
    assert_eq!(said, [("a", 2, Access::ReadOnly), ("b", 9, Access::ReadWrite)]);
    assert_eq!((&line.trusted[..], line.nosgl, line.verbosity), (&["ds1"][..], true, Verbosity::Info));
}

#[test]
fn options_of_a_client_need_one() {
    for option in ["--device x:n1", "--ds-max 2", "--readonly"] {
        assert_eq!(problem(option), Problem::NoClient, "{option}");
    }
}

#[test]
fn options_of_a_client_are_said_once() {
    for option in ["--device x:n1", "--ds-max 2", "--readonly"] {
        let line = std::format!("--client a --device y:n1 --ds-max 1 --readonly {option}");
        assert_eq!(problem(&line), Problem::Client(Why::Repeated), "{option}");
    }
}

#[test]
fn a_client_without_a_device_is_named() {
    for line in ["--client nodev", "--client nodev --readonly --client b --device x:n1"] {
        let error = on(ALL, line).unwrap_err();
        assert_eq!(error.problem, Problem::Client(Why::NoDevice));
        assert_eq!(error.to_string(), "--client \"nodev\": no device is named; add --device DEV behind it");
    }
}

#[test]
fn names_of_clients_are_their_own() {
    assert_eq!(problem("--client a --device x:n1 --client a --device y:n1"), Problem::Repeated);
    assert_eq!(problem("-d a --client a --device x:n1"), Problem::TwoUses);
    assert_eq!(problem("--client a -d a --device x:n1"), Problem::TwoUses);
    assert_eq!(problem("--client a --device x:n1 --client b --device x:n1 -d a"), Problem::TwoUses);
    for name in ["svr", "vbus", "ctl"] {
        assert_eq!(problem(&std::format!("--client {name} --device x:n1")), Problem::Reserved);
    }
    assert!(on(Dialect::COMMON, "--client ctl --device x:n1").is_ok());
    for name in ["a=b", "a:b", "é", "=", "a\u{7f}"] {
        assert_eq!(problem(&std::format!("--client={name} --device x:n1")), Problem::CapName, "{name}");
    }
    assert_eq!(problem(&std::format!("--client {}", "x".repeat(256))), Problem::CapName);
}

#[test]
fn the_words_of_a_client_are_checked_as_those_of_create_are() {
    assert_eq!(problem("--client a --device x:n0"), Problem::Client(Why::Device(NoName::Nsid)));
    for count in ["0", "257", "02", "+2", "two"] {
        assert_eq!(problem(&std::format!("--client a --ds-max {count}")), Problem::Client(Why::DsMax));
    }
}

#[test]
fn of_verbose_and_quiet_the_last_wins() {
    for (line, verbosity) in [
        ("", Verbosity::Normal),
        ("-v", Verbosity::Info),
        ("-v --verbose", Verbosity::Debug),
        ("-vvv", Verbosity::Trace),
        ("-vvvvvv -v", Verbosity::Trace),
        ("-vvv -q", Verbosity::Quiet),
        ("--quiet -v", Verbosity::Info),
        ("-qvv", Verbosity::Debug),
        ("-vvq", Verbosity::Quiet),
    ] {
        assert_eq!(ok(line).verbosity, verbosity, "{line}");
    }
}

#[test]
fn a_trusted_dataspace_may_stand_anywhere_and_repeat() {
    let line = ok("-d one --client a -dtwo --device x:n1 -vd three --register-ds=one");
    assert_eq!(&line.trusted[..], ["one", "two", "three"]);
    assert_eq!(line.verbosity, Verbosity::Info);
    assert_eq!(problem("-d=one"), Problem::CapName);
}

#[test]
fn two_hyphens_end_the_options() {
    assert_eq!(ok("-v --client a --device x:n1 --"), ok("-v --client a --device x:n1"));
    assert_eq!(ok("--"), CommandLine::default());
}

#[test]
fn what_is_not_known_is_named() {
    for (line, message) in [
        ("--frobnicate=1", "\"--frobnicate=1\": no such option"),
        ("--client a --read-only", "\"--read-only\": no such option; did you mean --readonly?"),
        ("--dsmax 2", "\"--dsmax\": no such option; did you mean --ds-max?"),
        ("-x", "\"-x\": no such option"),
        ("-vx", "\"-vx\": no such option"),
        ("-", "\"-\": no such option"),
        ("-- -v", "\"-v\": no such option"),
        ("-v -- svr", "\"svr\": no such option"),
        ("---v", "\"---v\": no such option"),
        ("svr", "\"svr\": no such option"),
        ("--verb", "\"--verb\": no such option"),
        ("--readonly=yes", "--readonly \"yes\": takes no value"),
        ("--client", "--client: needs a value"),
        ("--client=", "--client: needs a value that is not empty"),
        ("-d", "-d: needs a value"),
    ] {
        assert_eq!(on(ALL, line).unwrap_err().to_string(), message, "{line}");
    }
    assert_eq!(problem("--client --device x:n1"), Problem::LooksLikeOption);
    assert_eq!(CommandLine::parse([""], Dialect::COMMON).unwrap_err().problem, Problem::Unknown);
    let not_text: [&[u8]; 2] = [b"--client", b"a\xff"];
    assert_eq!(CommandLine::parse(not_text, Dialect::COMMON).unwrap_err().problem, Problem::NotText);
}

#[test]
fn options_that_not_every_home_has_are_taken_where_the_home_says_so() {
    let line = ok(
        "--cap vbus=pci:0000:01:00.0 --poll-us 0 --workers=2 --cap=vbus=soft:a=b --mem-max 16G --sessions-max 9",
    );
    let caps: Vec<_> = line.extra.caps.iter().map(|cap| (cap.name, cap.spec)).collect();
    assert_eq!(caps, [("vbus", "pci:0000:01:00.0"), ("vbus", "soft:a=b")]);
    assert_eq!((line.extra.poll_us, line.extra.workers), (Some(0), Some(2)));
    assert_eq!((line.extra.mem_max, line.extra.sessions_max), (Some(16 << 30), Some(9)));
    for option in
        ["--cap a=b", "--poll-us 1", "--workers 1", "--mem-max 1", "--sessions-max 1", "--help", "--version"]
    {
        let name = option.trim_start_matches('-').split(' ').next().unwrap();
        assert!(on(ALL, option).is_ok(), "{option}");
        assert_eq!(on(Dialect::COMMON, option).unwrap_err().problem, Problem::Unknown, "{option}");
        let alone: &'static [&'static str] = match ALL.options.iter().position(|known| *known == name) {
            Some(at) => &ALL.options[at..=at],
            None => panic!("{name}"),
        };
        assert!(on(Dialect { options: alone, ..ALL }, option).is_ok(), "{option}");
    }
    let one_to = |most| Problem::Number { least: 1, most };
    assert_eq!(problem("--workers 0"), one_to(256));
    assert_eq!(problem("--sessions-max 65536"), one_to(65_535));
    assert_eq!(problem("--poll-us 1000001"), Problem::Number { least: 0, most: 1_000_000 });
    assert_eq!(problem("--mem-max 0"), Problem::Size);
    assert_eq!(problem("--workers 1 --workers 1"), Problem::Repeated);
    for cap in ["vbus", "vbus=", "=x"] {
        assert!(
            matches!(problem(&std::format!("--cap {cap}")), Problem::CapForm | Problem::CapName),
            "{cap}"
        );
    }
}

#[test]
fn help_is_given_whatever_follows() {
    assert_eq!(ok("--client a --help --frobnicate").ask, Some(Ask::Help));
    assert_eq!(ok("--version").ask, Some(Ask::Version));
    assert_eq!(problem("--frobnicate --help"), Problem::Unknown);
}

#[test]
fn there_may_be_64_clients_and_trusted_dataspaces() {
    let clients = |n: usize| (0..n).map(|i| std::format!("--client c{i} --device x:n1 ")).collect::<String>();
    let trusted = |n: usize| (0..n).map(|i| std::format!("-d d{i} ")).collect::<String>();
    let most = clients(64) + &trusted(64);
    assert_eq!((ok(&most).clients.len(), ok(&most).trusted.len()), (64, 64));
    assert_eq!(problem(&clients(65)), Problem::TooMany(64));
    assert_eq!(problem(&trusted(65)), Problem::TooMany(64));
}

proptest! {
    /// Errors are for a terminal; and a client that is accepted was asked for, with a device.
    #[test]
    fn any_arguments_are_read_or_refused(args in proptest::collection::vec(
        prop_oneof![
            proptest::sample::select(std::vec!["--client", "--device", "--readonly", "--ds-max", "-d", "-vq", "a", "x:n1", "3",
                "--client=b", "--device=root", "--cap", "a=b", "--nomsi"]).prop_map(|s| s.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..12),
        ], 0..12)) {
        let count = |option: &[u8]| args.iter().filter(|arg| arg.starts_with(option)).count();
        match CommandLine::parse(args.iter(), ALL) {
            Ok(line) => {
                prop_assert!(line.clients.len() <= count(b"--client") && line.clients.len() <= count(b"--device"));
                let read_only = line.clients.iter().filter(|c| c.policy.access() == Access::ReadOnly).count();
                prop_assert_eq!(read_only, count(b"--readonly"));
            }
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
        }
    }
}

#[test]
fn one_disk_for_one_client_as_qemu_s_back_ends_are_told() {
    let line = ok("--blk-file=/a,b --socket-path /s --read-only -v --workers 2");
    let wanted = Backend { blk_file: "/a,b", socket: BackendSocket::Path("/s"), read_only: true };
    assert_eq!((line.extra.backend, line.extra.workers), (Some(wanted), Some(2)));
    let line = ok("--fd 7 --blk-file d");
    let wanted = Backend { blk_file: "d", socket: BackendSocket::Fd(7), read_only: false };
    assert_eq!(line.extra.backend, Some(wanted));
    assert_eq!(ok("--cap ctl=unix:/c").extra.backend, None);
}

#[test]
fn one_disk_for_one_client_is_all_there_is() {
    for (line, option, problem) in [
        ("--blk-file d", "--blk-file", Problem::Needs("--socket-path PATH or --fd N")),
        ("--socket-path s", "--socket-path", Problem::Needs("--blk-file PATH")),
        ("--fd 3", "--fd", Problem::Needs("--blk-file PATH")),
        ("--read-only", "--read-only", Problem::Needs("--blk-file PATH")),
        ("--blk-file d --fd 3 --socket-path s", "--socket-path", Problem::Beside("--fd")),
        ("--socket-path s --fd 3 --blk-file d", "--fd", Problem::Beside("--socket-path")),
        ("--blk-file d --fd 3 --fd 4", "--fd", Problem::Repeated),
        ("--blk-file d --blk-file d --fd 4", "--blk-file", Problem::Repeated),
        ("--blk-file d --fd 3 --read-only --read-only", "--read-only", Problem::Repeated),
        ("--blk-file d --fd 3 --client a --device x:n1", "--client", Problem::Beside("--blk-file")),
        ("--cap vbus=soft:x --blk-file d --fd 3", "--cap", Problem::Beside("--blk-file")),
        ("--blk-file d --fd 3 --cap svr=unix:/s", "--cap", Problem::Beside("--blk-file")),
        // Each place has its spelling.
        ("--client a --device x:n1 --read-only", "", Problem::Meant("--readonly")),
        ("--blk-file d --fd 3 --readonly", "", Problem::Meant("--read-only")),
    ] {
        let error = on(ALL, line).unwrap_err();
        assert_eq!((error.option, error.problem), (option, problem), "{line}");
    }
    for fd in ["2", "-1", "03", "2147483648", "x"] {
        let line = std::format!("--blk-file d --fd={fd}");
        assert!(matches!(problem(&line), Problem::Number { least: 3, .. }), "{fd}");
    }
}

#[test]
fn capabilities_are_printed_whatever_else_is_said() {
    for line in [
        "--print-capabilities",
        "--blk-file --print-capabilities",
        "stray --print-capabilities",
        "--help --print-capabilities",
        "--print-capabilities --nonsense",
        "--workers=0 -d --print-capabilities",
    ] {
        assert_eq!(ok(line).ask, Some(Ask::Capabilities), "{line}");
    }
    assert_eq!(on(Dialect::COMMON, "--print-capabilities").map_err(|e| e.problem), Err(Problem::Unknown));
}

#[test]
fn each_option_is_described_and_taken() {
    for option in ALL.described() {
        assert!(!option.about.is_empty() && !option.about.contains('\n'), "{option:?}");
        let long = std::format!("--{}", option.long);
        let known = |words: &[&str]| match CommandLine::parse(words.iter().copied(), ALL) {
            Err(error) => error.problem != Problem::Unknown,
            Ok(_) => true,
        };
        assert!(known(&[&long]), "{long}");
        assert!(option.short.is_none_or(|short| known(&[short])), "{option:?}");
        // Whether it takes a value is what the table says.
        let with = std::format!("{long}=x");
        let taken = CommandLine::parse([with.as_str()], ALL).map_err(|e| e.problem);
        assert_eq!(taken == Err(Problem::IsFlag), option.value.is_none(), "{long}");
    }
    let letters: Vec<_> = ALL.described().filter_map(|option| option.short).collect();
    assert_eq!(letters, ["-d", "-v", "-q", "-h", "-V"]);
    // What a home has not, it does not describe.
    assert!(Dialect::COMMON.described().all(|option| !["cap", "help"].contains(&option.long)));
}
