//! Images whose size is somebody else's to say (FUSE, as NFS), who does not answer: the operator is told so, and everybody else is served.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::server::{Bench, wait_until};
use crate::storage::{MIB, Mount, able, client, operator, run, serve, session, sparse, vbus};

const SECTORS: u64 = MIB / 512;
/// What others may have to wait at most.
const SOON: Duration = Duration::from_secs(2);
/// For how long storage does not answer, where nobody makes it.
const HANGS: Duration = Duration::from_secs(15);

/// Numbers of fuse(4): the image's node, and calls.
const IMAGE: u64 = 2;
mod call {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}
const ENOSYS: i32 = -38;

/// What a file system of one file, `image`, is made of.
struct Inner {
    device: File,
    bytes: Mutex<Vec<u8>>,
    hangs: AtomicBool,
    /// Who asked how large the image is, and was not answered.
    unanswered: Mutex<Vec<u64>>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Numbers of 32 bits as they lie in memory.
fn halves(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

impl Inner {
    fn answer(&self, unique: u64, result: Result<Vec<u8>, i32>) {
        let (error, body) = result.map_or_else(|error| (error, Vec::new()), |body| (0, body));
        let mut out = halves(&[16 + body.len() as u32, error as u32]);
        out.extend(words(&[unique]));
        out.extend(body);
        // Who asked may be gone.
        let _ = (&self.device).write(&out);
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let size = if node == IMAGE { self.bytes.lock().unwrap().len() as u64 } else { 0 };
        let mode = if node == IMAGE { 0o100_600 } else { 0o040_700 };
        let mut all = words(&[node, size, size / 512, 0, 0, 0]);
        all.extend(halves(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
        all
    }

    /// Nothing of it is valid for longer than it takes to say it.
    fn size(&self, node: u64) -> Vec<u8> {
        let mut all = words(&[0, 0]);
        all.extend(self.attributes(node));
        all
    }

    fn answer_all(&self) {
        self.hangs.store(false, Ordering::SeqCst);
        for unique in core::mem::take(&mut *self.unanswered.lock().unwrap()) {
            self.answer(unique, Ok(self.size(IMAGE)));
        }
    }

    fn serve(&self) {
        let mut request = vec![0; 1 << 20];
        while let Ok(len) = (&self.device).read(&mut request) {
            let (head, body) = request[..len].split_at(40);
            let (what, unique, node) = (half(head, 4), word(head, 8), word(head, 16));
            let result = match what {
                call::INIT => {
                    let mut all = halves(&[7, 31, 0, 0, 0, 128 << 10, 1]);
                    all.resize(64, 0);
                    Ok(all)
                }
                call::LOOKUP if body.starts_with(b"image\0") => {
                    let mut all = words(&[IMAGE, 0, 3600, 0, 0]);
                    all.extend(self.attributes(IMAGE));
                    Ok(all)
                }
                call::LOOKUP => Err(-2),
                call::GETATTR if node == IMAGE && self.hangs.load(Ordering::SeqCst) => {
                    self.unanswered.lock().unwrap().push(unique);
                    continue;
                }
                call::GETATTR => Ok(self.size(node)),
                call::OPEN => Ok(vec![0; 16]),
                call::READ => {
                    let (from, len) = (word(body, 8) as usize, half(body, 16) as usize);
                    let bytes = self.bytes.lock().unwrap();
                    Ok(bytes[from.min(bytes.len())..(from + len).min(bytes.len())].to_vec())
                }
                call::WRITE => {
                    let (from, len) = (word(body, 8) as usize, half(body, 16));
                    self.bytes.lock().unwrap()[from..from + len as usize]
                        .copy_from_slice(&body[40..40 + len as usize]);
                    Ok(halves(&[len, 0]))
                }
                call::STATFS => {
                    let mut all = words(&[1 << 20, 1 << 19, 1 << 19, 1, 1]);
                    all.extend(halves(&[4096, 255, 4096]));
                    all.resize(80, 0);
                    Ok(all)
                }
                call::RELEASE | call::FLUSH | call::FSYNC => Ok(Vec::new()),
                call::FORGET | call::BATCH_FORGET | call::INTERRUPT => continue,
                _ => Err(ENOSYS),
            };
            self.answer(unique, result);
        }
    }
}

/// A file system that asks this process, which does not always say how large its image is.
struct Asking {
    inner: Arc<Inner>,
    mount: Mount,
}

impl Asking {
    fn new(bytes: u64) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let words = ["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "image"];
        let mut mount = Command::new("mount");
        mount.args(words).arg(dir.path()).stdin(Stdio::from(device.try_clone().unwrap()));
        let inner = Arc::new(Inner {
            device,
            bytes: Mutex::new(vec![0; bytes as usize]),
            hangs: AtomicBool::new(false),
            unanswered: Mutex::default(),
        });
        let own = Arc::clone(&inner);
        assert!(mount.status().unwrap().success());
        thread::spawn(move || own.serve());
        Self { inner, mount: Mount(dir) }
    }

    fn image(&self) -> PathBuf {
        self.mount.path("image")
    }

    fn resize(&self, bytes: u64) {
        self.inner.bytes.lock().unwrap().resize(bytes as usize, 0);
    }

    /// From now on it does not say how large the image is; not for ever, since whoever waits for that cannot even be killed.
    fn hang(&self) {
        self.inner.hangs.store(true, Ordering::SeqCst);
        let inner = Arc::clone(&self.inner);
        thread::spawn(move || {
            thread::sleep(HANGS);
            inner.answer_all();
        });
    }

    fn is_asked(&self) -> bool {
        !self.inner.unanswered.lock().unwrap().is_empty()
    }

    /// It does, to those as well who asked meanwhile.
    fn answer(&self) {
        self.inner.answer_all();
    }
}

/// What it takes to do this.
fn timed<T>(what: impl FnOnce() -> T) -> (Duration, T) {
    let before = Instant::now();
    let done = what();
    (before.elapsed(), done)
}

#[test]
fn an_image_whose_storage_does_not_say_its_size_holds_up_the_operator_alone_and_not_for_long() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads", "window"] {
        let bench = Bench::new();
        let far = Asking::new(8 * MIB);
        let near = bench.path("near");
        sparse(&near, 8 * MIB);
        let words = [
            vbus(&far.image(), &format!(",serial=far,engine={engine}")),
            vbus(&near, ",serial=near"),
            bench.disk(),
        ];
        let mut server = serve(&bench, &words);
        let mut on_far = session(&bench, &["device=far:n1"]);
        let mut on_near = session(&bench, &["device=near:n1"]);
        on_far.write(8, &[1; 4096]).unwrap();
        far.hang();
        far.resize(12 * MIB);
        thread::scope(|scope| {
            let all = scope.spawn(|| timed(|| operator(&bench, &["rescan"])));
            wait_until("somebody asks how large it is", || far.is_asked());
            let (took, list) = timed(|| bench.factory().list());
            assert!(took < SOON && list.is_ok(), "{engine}: {took:?}: {}", server.said());
            let (took, created) =
                timed(|| bench.factory().create(&["device=partlabel:bystander"], None).unwrap());
            assert!(took < SOON, "{engine}: {took:?}");
            let (took, ()) = timed(|| {
                client(created).write(0, &[2; 4096]).unwrap();
                on_near.write(8, &[3; 4096]).unwrap();
                on_far.write(8, &[4; 4096]).unwrap();
            });
            assert!(took < SOON, "{engine}: {took:?}");
            // Another operator, who asks for what answers.
            let (took, told) = timed(|| operator(&bench, &["rescan", "near"]));
            assert!(took < SOON, "{engine}: {took:?}");
            assert_eq!(told.as_deref(), Ok("[{\"device\":\"near:n1\",\"bytes\":8388608}]"));
            let (took, told) = all.join().unwrap();
            assert_eq!(told, Err(1), "{engine}");
            assert!(took < Duration::from_secs(9), "{engine}: {took:?}");
        });
        server.says("its storage does not say within 5 s how large it is");
        assert_eq!(on_far.read_config().unwrap().capacity, 8 * SECTORS);
        // What it says at last counts, though nobody waits for it any more.
        far.answer();
        wait_until("its new size", || on_far.read_config().unwrap().capacity == 12 * SECTORS);
        let told = operator(&bench, &["rescan", "far"]);
        assert_eq!(told.as_deref(), Ok("[{\"device\":\"far:n1\",\"bytes\":12582912}]"), "{engine}");
        drop((on_far, on_near));
        assert_eq!(server.stop(), 0);
    }
}

/// What lies below an overlay may be anybody's: the server that looks by itself takes what the kernel knows.
#[test]
fn a_look_at_an_overlay_asks_nobody_below_it() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let far = Asking::new(8 * MIB);
    let empty = tempfile::tempdir().unwrap();
    let overlay = Mount(tempfile::tempdir().unwrap());
    let below = far.image();
    let lower = format!("lowerdir={}:{}", below.parent().unwrap().display(), empty.path().display());
    run("mount", &["-t", "overlay", "-o", &lower, "none", overlay.0.path().to_str().unwrap()]);
    let words = [vbus(&overlay.path("image"), ",serial=far,ro"), bench.disk()];
    let mut server = serve(&bench, &words);
    let held = session(&bench, &["device=far:n1", "read-only"]);
    far.hang();
    let (took, created) = timed(|| bench.factory().create(&["device=partlabel:bystander"], None));
    assert!(took < SOON && created.is_ok(), "{took:?}");
    // Longer than it takes until the server looks by itself.
    thread::sleep(Duration::from_secs(7));
    let (took, list) = timed(|| bench.factory().list());
    assert!(took < SOON && list.is_ok(), "{took:?}");
    far.answer();
    drop((held, created));
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_server_starts_beside_programs_that_have_files_open_whose_storage_hangs() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let far = Asking::new(8 * MIB);
    let mut held = Command::new("sleep").arg("100").stdin(File::open(far.image()).unwrap()).spawn().unwrap();
    far.hang();
    let (took, mut server) = timed(|| {
        let server = serve(&bench, &[bench.disk()]);
        wait_until("it is ready", || server.said().contains("ready: "));
        server
    });
    assert!(took < SOON, "{took:?}");
    far.answer();
    held.kill().unwrap();
    held.wait().unwrap();
    assert_eq!(server.stop(), 0);
}
