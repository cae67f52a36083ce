//! The server under test, and how a virtual machine gets at a session.
//!
//! With `NVME_DRV_VM_PEER` set, `qemu-storage-daemon` plays the server: it shows that the tests themselves hold on
//! another implementation. (It has no sessions: each disk is an export of its own, for one client at a time.)

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nvme_client::{Error, Factory, socket};

use crate::disk::{Disk, GOLDEN, Place, SCRATCH};

/// How long the server may take for anything.
const WAIT: Duration = Duration::from_secs(40);

/// Which partition, and for what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    GoldenReadOnly,
    Scratch,
}

impl What {
    fn words(self) -> [&'static str; 2] {
        match self {
            What::GoldenReadOnly => ["device=partlabel:golden", "read-only"],
            What::Scratch => ["device=partlabel:scratch", "ds-max=2"],
        }
    }
}

/// How a virtual machine reaches its session.
pub(crate) enum Attach {
    /// A session capability, to be inherited.
    Fd(OwnedFd),
    /// A socket, and what keeps the session behind it alive.
    Path(PathBuf, Option<OwnedFd>),
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    /// `None` once the next server has it.
    dir: Option<tempfile::TempDir>,
    peer: bool,
    said: Arc<Mutex<Vec<String>>>,
}

/// Whether the peer plays the server.
pub(crate) fn peer() -> bool {
    std::env::var_os("NVME_DRV_VM_PEER").is_some()
}

pub(crate) fn program() -> PathBuf {
    let built = option_env!("CARGO_BIN_EXE_nvme-drv").map(PathBuf::from);
    std::env::var_os("NVME_DRV_BIN").map(PathBuf::from).or(built).expect("the server's program")
}

impl Server {
    /// Starts the server over an image. A static client `cl1` has the scratch partition when that is asked for.
    pub(crate) fn start(disk: &Disk, static_client: bool) -> Server {
        Self::start_in(tempfile::tempdir().unwrap(), disk, static_client)
    }

    fn start_in(dir: tempfile::TempDir, disk: &Disk, static_client: bool) -> Server {
        let mut command = if peer() { peer_command(disk, dir.path()) } else { Command::new(program()) };
        if !peer() {
            command.arg("-vv").args(["--cap", &format!("vbus=soft:{},serial=1234", disk.image.display())]);
            command.args(["--cap", &format!("svr=unix:{}", dir.path().join("svr").display())]);
            if static_client {
                command.args(["--cap", &format!("cl1=unix:{}", dir.path().join("cl1").display())]);
                command.args(["--client", "cl1", "--device", "partlabel:scratch"]);
            }
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                lines.lock().unwrap().push(line);
            }
        });
        Server { child, dir: Some(dir), peer: peer(), said }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.as_ref().expect("its folder").path().join(name)
    }

    /// Kills it, and starts another in its place. What it has under way can land once `land` was called.
    pub(crate) fn kill_and_start(&mut self, disk: &Disk, land: impl FnOnce()) {
        self.child.kill().unwrap();
        land();
        self.child.wait().unwrap();
        let dir = self.dir.take().expect("its folder");
        *self = Self::start_in(dir, disk, true);
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.place(name);
        let deadline = Instant::now() + WAIT;
        while !path.exists() {
            assert!(Instant::now() < deadline, "{} did not appear", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        path
    }

    fn create(&self, words: &[&str], listener: Option<&UnixListener>) -> OwnedFd {
        let factory = Factory::connect_retry(self.path("svr"), WAIT).unwrap();
        let deadline = Instant::now() + WAIT;
        loop {
            match factory.create(words, listener.map(AsFd::as_fd)) {
                // The session before this one may still be draining.
                Err(Error::Create { code: -16, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other.unwrap(),
            }
        }
    }

    /// A session of its own, by descriptor.
    pub(crate) fn session(&self, what: What) -> Attach {
        if self.peer {
            return Attach::Fd(socket::connect_retry(&self.path(peer_name(what)), WAIT).unwrap());
        }
        Attach::Fd(self.create(&what.words(), None))
    }

    /// A session that takes clients on a listening socket.
    pub(crate) fn listening(&self, what: What) -> Attach {
        if self.peer {
            return Attach::Path(self.path(peer_name(what)), None);
        }
        let path = self.place("listen");
        let listener = UnixListener::bind(&path).unwrap();
        let held = self.create(&what.words(), Some(&listener));
        Attach::Path(path, Some(held))
    }

    /// The static client `cl1`.
    pub(crate) fn static_client(&self) -> Attach {
        Attach::Path(self.path(if self.peer { "scratch" } else { "cl1" }), None)
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether it says this within a few seconds.
    pub(crate) fn says_soon(&self, what: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(4);
        while Instant::now() < deadline {
            if self.said().iter().any(|line| what(line)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peer_name(what: What) -> &'static str {
    match what {
        What::GoldenReadOnly => "golden",
        What::Scratch => "scratch",
    }
}

fn peer_command(disk: &Disk, dir: &Path) -> Command {
    let mut command = Command::new("qemu-storage-daemon");
    let image = disk.image.display();
    command.arg("--blockdev").arg(format!("driver=file,node-name=f,discard=unmap,filename={image}"));
    let mut export = |name: &str, node: &str, Place { start, len }: Place, writable: &str| {
        let raw = format!("driver=raw,node-name={node},discard=unmap,offset={start},size={len},file=f");
        let path = dir.join(name).display().to_string();
        let id = format!("e-{name}");
        let export = format!(
            "type=vhost-user-blk,id={id},node-name={node},addr.type=unix,addr.path={path},writable={writable},num-queues=8"
        );
        command.arg("--blockdev").arg(raw).arg("--export").arg(export);
    };
    export("golden", "g", GOLDEN, "off");
    export("scratch", "s", SCRATCH, "on");
    command
}
