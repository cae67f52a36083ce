//! Running the loader, with a deadline.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a program `nvme-drv`, where scripts and what they make are as well.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

/// How the loader ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A loader that runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: String,
    err: Receiver<String>,
}

impl Place {
    /// With this program as the server.
    pub(crate) fn new(server: &Path) -> Place {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(server, folder.path().join("nvme-drv")).unwrap();
        Place { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with this text.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What the fake server reported, once it has.
    pub(crate) fn report(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::fs::read_to_string(self.path("report")) {
                Ok(report) => return report,
                Err(error) => assert!(Instant::now() < deadline, "no report: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the loader.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ned"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("NVME_ROM", self.folder.path())
            .env("FAKE_REPORT", self.path("report"))
            .env("QEMU", self.path("qemu"))
            .env_remove("QEMU_ARGS")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines(child.stdout.take().unwrap());
        let err = all(child.stderr.take().unwrap());
        Running { child, lines, seen: String::new(), err }
    }

    /// Runs a script until the loader ends by itself.
    pub(crate) fn run(&self, script: &str) -> Ended {
        let path = self.write("script.lua", script);
        self.start(&[path.to_str().unwrap()]).end()
    }
}

fn lines(out: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn all(mut err: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = err.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

impl Running {
    /// Waits for a line of its output.
    pub(crate) fn expect(&mut self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let _ = self.child.kill();
                let err = self.err.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                panic!("`{wanted}` did not come, but this:\n{}\n{err}", self.seen);
            };
            self.seen += &line;
            self.seen.push('\n');
            if line == wanted {
                return;
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The servers that are its own processes.
    fn servers(&self) -> Vec<i32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let children =
            threads.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children: Vec<String> = children.collect();
        let children = children.iter().flat_map(|all| all.split_whitespace());
        let is_server = |pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.starts_with("Name:\tnvme-drv") && !status.contains("State:\tZ")
        };
        children.filter_map(|pid| pid.parse().ok()).filter(is_server).collect()
    }

    /// The process id of its only server, as soon as that is another than this.
    pub(crate) fn server(&self, before: i32) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.servers()[..] {
                [pid] if pid != before => return pid,
                _ => assert!(Instant::now() < deadline, "no other server"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no server is its own process.
    pub(crate) fn no_server(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.servers().is_empty() {
            assert!(Instant::now() < deadline, "the server runs still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("the loader did not end; it printed:\n{}", self.seen);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.seen += &line;
            self.seen.push('\n');
        }
        let err = self.err.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
        Ended { status: status.code(), out: self.seen, err }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // What went wrong is shown with what the loader said.
        if std::thread::panicking() {
            eprintln!("status {:?}\n{}\n{}", self.status, self.out, self.err);
        }
    }
}
