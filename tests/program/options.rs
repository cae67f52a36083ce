//! What is wrong is said by name, with a status that is not 0, before anything is served.

use crate::server::Bench;

/// The status, and what was said.
fn run(bench: &Bench, words: &[&str]) -> (i32, String) {
    let mut server = bench.start(words, &[], &[]);
    (server.wait(), server.said())
}

#[test]
fn help_and_version_are_printed_and_end_with_0() {
    let bench = Bench::new();
    let (status, said) = run(&bench, &["--help"]);
    assert_eq!(status, 0);
    for option in [
        "--client",
        "--device",
        "--ds-max",
        "--readonly",
        "--register-ds",
        "--ds ",
        "--iops ",
        "--bytes ",
        "--factory",
        "--sessions ",
        "--factories",
        "--iops-all",
        "--bytes-all",
        "--nosgl",
        "--nomsi",
        "--nomsix",
        "--cap",
        "--poll-us",
        "--workers",
        "--mem-max",
        "--sessions-max",
        "--verbose",
        "--quiet",
    ] {
        assert!(said.contains(option), "{option}: {said}");
    }
    let (status, said) = run(&bench, &["--version"]);
    assert_eq!((status, said.trim()), (0, concat!("nvme-drv ", env!("NVME_DRV_VERSION"))));
    assert_eq!((run(&bench, &["-V"]), run(&bench, &["-h"]).0), ((0, said), 0));
}

#[test]
fn a_word_that_is_wrong_is_named() {
    let bench = Bench::new();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let wrong: &[(&[&str], &str)] = &[
        (&["--clint", "a"], "--clint"),
        (&["--client", "a", "--device", "x", "--ds-max", "257"], "257"),
        (&["--client", "a", "--device", "x", "--ds-max", "0"], "--ds-max"),
        (&["--readonly"], "--readonly"),
        (&["--client", "a"], "--device"),
        (&["--workers", "0"], "--workers"),
        (&["--poll-us", "-1"], "--poll-us"),
        (&["--mem-max", "lots"], "lots"),
        (&["stray"], "stray"),
    ];
    for (words, named) in wrong {
        let all: Vec<&str> = [disk.as_str(), svr.as_str()].into_iter().chain(words.iter().copied()).collect();
        let (status, said) = run(&bench, &all);
        assert!(status != 0 && said.contains(named), "{words:?}: {status} {said}");
        assert!(!bench.path("svr").exists(), "{words:?}: it served");
    }
}

#[test]
fn a_capability_that_is_missing_or_of_no_use_is_named() {
    let bench = Bench::new();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let no_image = format!("--cap=vbus=soft:{}", bench.path("none").display());
    let folder = format!("--cap=vbus=soft:{}", bench.path("").display());
    let wrong: &[(&[&str], &str)] = &[
        (&[&svr], "vbus"),
        (&[&disk], "svr"),
        (&[&no_image, &svr], "none"),
        (&[&folder, &svr], "vbus"),
        (&[&disk, &svr, &svr], "svr"),
        (&[&disk, &svr, "--cap=spare=unix:/tmp/x"], "spare"),
        (&[&disk, &svr, "--cap=vbus=floppy:0"], "floppy"),
        (&[&disk, &svr, "--client", "cl1", "--device", "SN 1:2:n1"], "cl1"),
        (&[&disk, &svr, "-d", "ram"], "ram"),
        (&[&disk, &svr, "--cap=ctl=unix:/nonexistent/ctl"], "ctl"),
        (&[&disk, &disk, &svr], "serial"),
        (&["--cap=vbus=soft:mem:1M,lba=520", &svr], "lba"),
        (&["--cap=vbus=pci:0000:00:00.0", &svr], "0000:00:00.0"),
    ];
    for (words, named) in wrong {
        let (status, said) = run(&bench, words);
        assert!(status != 0 && said.contains(named), "{words:?}: {status} {said}");
    }
}

#[test]
fn a_server_that_was_told_to_be_quiet_says_nothing_at_all() {
    let bench = Bench::new();
    let mut server = bench.serve(&["-v", "-q"]);
    let _ = bench.refused(&["device=none"]);
    assert_eq!(server.stop(), 0);
    assert_eq!(server.said(), "");
    // Of -v and -q the last wins.
    let mut server = bench.serve(&["-q", "-vvvvvv"]);
    server.says("Serial Number: SN 1:2");
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_is_wrong_with_a_capability_is_said_of_which() {
    let bench = Bench::new();
    let svr = bench.socket("svr");
    let disk = bench.disk();
    let missing = "--cap=svr=unix:/nonexistent/deep/svr";
    let (status, said) = run(&bench, &[&disk, missing]);
    assert_eq!(status, 2);
    assert!(
        said.contains("/nonexistent/deep/svr: there is no folder /nonexistent/deep; make it first"),
        "{said}"
    );
    // Which of three.
    let words = [
        "--cap=vbus=soft:mem:1M,serial=a",
        "--cap=vbus=soft:mem:2M,serial=b",
        "--cap=vbus=soft:mem:3M,serial=a",
    ];
    let (status, said) = run(&bench, &[words[0], words[1], words[2], &svr]);
    assert_eq!(status, 2);
    let wanted = "vbus=soft:mem:1M,serial=a and vbus=soft:mem:3M,serial=a have the same serial number `a`";
    assert!(said.contains(wanted), "{said}");
    let (_, said) = run(&bench, &["--cap=vbus=soft:mem:1M,readonly", &svr]);
    assert!(
        said.contains("vbus=soft:mem:1M,readonly: `readonly` is no option")
            && said.contains("did you mean ro?"),
        "{said}"
    );
}
