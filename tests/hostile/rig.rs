//! The server process, a bystander whose I/O must go on, and what has to hold when an attack is over.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nvme_client::{Error, Factory};
use rustix::process::{Pid, Signal, kill_process};

use crate::bystander::Bystander;
use crate::disk::{self, Disk};

/// How long anything may take that should take no time. The machine may be busy.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// How the server is started.
pub(crate) struct Setup {
    /// Bytes of the image.
    pub(crate) image: Vec<u8>,
    /// Bytes of a block.
    pub(crate) block: u64,
    /// Arguments after the capabilities of the controller and the factory.
    pub(crate) arguments: Vec<String>,
    /// Whether a bystander has the partition of that name.
    pub(crate) bystander: bool,
    /// Most descriptors that the server may have.
    pub(crate) descriptors: Option<u64>,
    /// What starts the server: a program and its arguments.
    pub(crate) starter: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        let image = disk::image(512);
        Self { image, block: 512, arguments: Vec::new(), bystander: true, descriptors: None, starter: &[] }
    }
}

/// A running server with its bystander.
pub(crate) struct Rig {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) disk: Disk,
    pub(crate) bystander: Option<Bystander>,
    said: Arc<Mutex<Vec<String>>>,
    finished: bool,
}

/// Runs an attack against a server with a bystander, and holds the server to its promises during and after it.
pub(crate) fn attack(work: impl FnOnce(&Rig)) {
    attack_on(Setup::default(), work);
}

/// As [`attack`], on a server of one's own.
pub(crate) fn attack_on(setup: Setup, work: impl FnOnce(&Rig)) {
    let rig = Rig::start(setup);
    work(&rig);
    rig.check();
    rig.finish();
}

impl Rig {
    /// What holds at any time.
    pub(crate) fn check(&self) {
        self.goes_on();
        self.disk.check_but(&["attack", "bystander"]);
    }

    pub(crate) fn start(setup: Setup) -> Self {
        let dir = disk::memory_dir();
        let disk = Disk::new(dir.path(), setup.image);
        let program = env!("CARGO_BIN_EXE_nvme-drv");
        let mut command = match (setup.descriptors, setup.starter) {
            (None, []) => Command::new(program),
            (None, [starter, arguments @ ..]) => {
                let mut command = Command::new(starter);
                command.args(arguments).arg(program);
                command
            }
            (Some(n), _) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -n {n} && exec \"$0\" \"$@\""), program]);
                command
            }
        };
        let image = disk.path.display();
        command.args(["--cap", &format!("vbus=soft:{image},serial=1234,lba={}", setup.block)]);
        command.args(["--cap", &format!("svr=unix:{}", dir.path().join("svr").display())]);
        command.args(setup.arguments);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let mut rig = Self { child, dir, disk, bystander: None, said, finished: false };
        if setup.bystander {
            let session = rig.create(&["device=1234:n1:4"]);
            rig.bystander = Some(Bystander::start(session, setup.block));
        }
        rig
    }

    /// Does something that the server sees afterwards.
    pub(crate) fn while_it_stands_still(&self, work: impl FnOnce()) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        work();
        kill_process(pid, Signal::CONT).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connection to the factory.
    pub(crate) fn factory(&self) -> Factory {
        Factory::connect_retry(self.path("svr"), WAIT).unwrap()
    }

    /// A session capability. Waits while an earlier session drains.
    /// The names of the server's threads, and how nice each is.
    pub(crate) fn threads(&self) -> Vec<(String, i32)> {
        let dir = format!("/proc/{}/task", self.child.id());
        let threads = std::fs::read_dir(dir).unwrap().map(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            let (name, rest) = stat.rsplit_once(')').unwrap();
            // proc_pid_stat(5): the name is the second, in parentheses, and this the nineteenth.
            let nice = rest.split_whitespace().nth(16).unwrap().parse().unwrap();
            (name.split_once('(').unwrap().1.to_string(), nice)
        });
        threads.collect()
    }

    pub(crate) fn create(&self, words: &[&str]) -> OwnedFd {
        self.mint(words, None)
    }

    /// A session that takes clients on that socket; its lifetime.
    pub(crate) fn mint(&self, words: &[&str], listener: Option<&UnixListener>) -> OwnedFd {
        let deadline = Instant::now() + WAIT;
        loop {
            match self.factory().create(words, listener.map(AsFd::as_fd)) {
                // The one before may still be draining, and what it wrote be read.
                Err(Error::Create { code: -12 | -16 | -19, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other.unwrap_or_else(|e| panic!("{words:?}: {e}; {:?}", self.said())),
            }
        }
    }

    /// What a request is refused with.
    pub(crate) fn refused(&self, words: &[&str]) -> i32 {
        let reply = self.factory().ask(words, None).unwrap();
        assert!(reply.fds.is_empty() && !reply.message.is_empty(), "{words:?}: {reply:?}");
        reply.code
    }

    /// What the server said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits until the server has said something.
    pub(crate) fn says(&self, what: &str) {
        let deadline = Instant::now() + WAIT;
        while !self.said().iter().any(|line| line.contains(what)) {
            assert!(Instant::now() < deadline, "not said: {what}; but {:#?}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the bystander has made some more rounds.
    pub(crate) fn goes_on(&self) {
        if let Some(bystander) = &self.bystander {
            bystander.goes_on();
        }
    }

    /// Ticks of the clock (1/100 s) that the server has run for so far.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// How many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The same, once they are no more than that: what clients sent is closed by a thread of its own.
    pub(crate) fn descriptors_at_most(&self, most: usize) -> usize {
        let deadline = Instant::now() + WAIT;
        loop {
            let open = self.descriptors();
            if open <= most {
                return open;
            }
            assert!(Instant::now() < deadline, "{open} descriptors, {most} at most");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Bytes of the server's own memory.
    pub(crate) fn anonymous(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Ends the server as an operator does; what it said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        if let Some(bystander) = self.bystander.take() {
            bystander.stop();
        }
        assert!(self.child.try_wait().unwrap().is_none(), "the server is gone: {:#?}", self.said());
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.wait();
        assert!(status.success(), "{status}: {:#?}", self.said());
        self.disk.check_but(&["attack", "bystander"]);
        let said = self.said();
        assert!(!said.iter().any(|l| l.contains("panicked")), "{said:#?}");
        // Whatever kept a worker awake, it looked for others' kicks.
        for line in said.iter().filter(|line| line.contains("nor was unseen")) {
            let micros = line.split("unseen for longer than ").nth(1).and_then(|rest| rest.split(' ').next());
            assert!(micros.unwrap().parse::<u64>().unwrap() <= 50, "{line}");
        }
        self.finished = true;
        said
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end: {:#?}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("{:#?}", self.said());
            assert!(std::thread::panicking(), "the server was not finished");
        }
    }
}

/// A file's bytes.
pub(crate) fn file_bytes(file: impl AsFd) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = File::from(file.as_fd().try_clone_to_owned().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
