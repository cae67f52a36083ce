//! `nvme-ctl top` in a real terminal: tmux has it, and is asked what it shows.

use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::{Client, Options};

use crate::server::{Bench, WAIT};
use crate::{inventory, text};

/// A terminal of 100 columns and 30 lines.
struct Terminal<'b> {
    bench: &'b Bench,
}

impl<'b> Terminal<'b> {
    fn start(bench: &'b Bench, words: &[&str]) -> Self {
        let terminal = Self { bench };
        let mut command = terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"]);
        for name in ["ctl", "admin"] {
            command.arg("-e").arg(format!("NVME_DRV_{}={}", name.to_uppercase(), bench.path(name).display()));
        }
        command.arg(env!("CARGO_BIN_EXE_nvme-ctl")).args(words);
        let done = command.output().unwrap_or_else(|e| panic!("tmux: {e} (apt-get install tmux)"));
        assert!(done.status.success(), "{}", text(&done.stderr));
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.bench.path("tmux")).args(words).env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        command
    }

    fn keys(&self, keys: &[&str]) {
        let all: Vec<&str> = ["send-keys"].iter().chain(keys).copied().collect();
        assert!(self.tmux(&all).status().unwrap().success());
    }

    fn shown(&self) -> String {
        let Output { stdout, .. } = self.tmux(&["capture-pane", "-p"]).output().unwrap();
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Waits until it shows something; all that it shows.
    fn shows(&self, what: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WAIT;
        loop {
            let shown = self.shown();
            if what(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_there(&self) -> bool {
        self.tmux(&["has-session"]).output().unwrap().status.success()
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}

/// The line of a session.
fn line_of<'s>(shown: &'s str, device: &str) -> Option<&'s str> {
    shown.lines().find(|line| line.contains(device))
}

#[test]
fn sessions_are_shown_sorted_limited_and_ended_by_keys() {
    let bench = Bench::new();
    let mut server = bench.serve(&[&bench.socket("ctl"), &bench.socket("admin")]);
    let client =
        |word: &str| Client::from_fd(bench.create(&[word, "name=web"]), &Options::default()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    // One that does something, and was there last; another that does nothing.
    let idle = client("device=partlabel:after");
    let mut busy = client("device=partlabel:attack");
    let asks = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            // Until it is ended, or told to stop.
            while !stop.load(Ordering::Relaxed) && busy.read(0, &mut [0; 4096]).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let id = inventory(&bench).sessions.iter().find(|s| s.device.ends_with(":2")).unwrap().id;
    let terminal = Terminal::start(&bench, &["top"]);
    let shown = terminal
        .shows(|shown| line_of(shown, "n1:2").is_some_and(|line| line.contains("µs") || line.contains("ms")));
    let first = shown.lines().find(|line| line.contains("SN 1:2:n1:")).unwrap();
    assert!(first.contains("n1:2") && first.contains("web"), "the busy one is first: {shown}");
    assert!(first.contains(['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']), "{shown}");
    let controller = shown.lines().find(|line| line.contains("ready")).unwrap();
    assert!(controller.contains("SN 1:2") && controller.contains("37°C"), "{shown}");
    assert!(shown.lines().next().unwrap().contains("worker 0"), "{shown}");
    // By number: the idle one was there first.
    for sort in ["bytes", "latency", "held", "number"] {
        terminal.keys(&["s"]);
        terminal.shows(|shown| shown.contains(&format!("by {sort}")));
    }
    let shown = terminal.shows(|shown| shown.contains("by number"));
    assert!(shown.find("n1:3") < shown.find("n1:2"), "{shown}");
    terminal.keys(&["s"]);
    terminal.shows(|shown| shown.contains("by requests"));
    // What is selected from the start is the first that was seen; the busy one is above it.
    terminal.keys(&["Up", "Up", "l"]);
    terminal.shows(|shown| shown.contains(&format!("limit of session {id}")));
    terminal.keys(&["-l", "iops=20"]);
    terminal.keys(&["Enter"]);
    terminal.shows(|shown| shown.contains("\"iops\":20"));
    assert_eq!(inventory(&bench).sessions.iter().find(|s| s.id == id).unwrap().iops, Some(20));
    terminal.shows(|shown| line_of(shown, "n1:2").is_some_and(|line| line.contains('%')));
    terminal.keys(&["e"]);
    terminal.shows(|shown| shown.contains(&format!("end session {id}?")));
    terminal.keys(&["n"]);
    assert!(terminal.shown().contains("n1:2"));
    terminal.keys(&["e"]);
    terminal.shows(|shown| shown.contains("y ends it"));
    terminal.keys(&["y"]);
    terminal.shows(|shown| line_of(shown, "n1:2").is_none());
    server.says(&format!("session {id}: ended"));
    stop.store(true, Ordering::Relaxed);
    asks.join().unwrap();
    // The server goes, which is said; the terminal stays.
    drop(idle);
    assert_eq!(server.stop(), 0);
    terminal.shows(|shown| shown.contains("cannot connect"));
    terminal.keys(&["q"]);
    let deadline = Instant::now() + WAIT;
    while terminal.is_there() {
        assert!(Instant::now() < deadline, "{}", terminal.shown());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn top_wants_a_terminal_and_a_server() {
    let bench = Bench::new();
    let refused = crate::run(&bench, &["top"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("terminal"), "{}", text(&refused.stderr));
    assert!(bench.path("tmux").as_os_str().as_bytes().len() < 100);
}
