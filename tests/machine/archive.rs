//! An initramfs made by hand, and the kernel that boots it, from what Debian installed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everything comes over the serial console: one command a line, its exit status after it.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -icrnl 2>/dev/null
for module in $(cat /modules.order); do insmod "/modules/$module"; done
@FIRST@
echo "@@READY"
while read -r line; do
    eval "$line"
    echo "@@RC $?"
done
"#;

/// Makes an ELF kernel, which boots faster than the bzImage, in `dir`. Says its version, and where it is; or what is missing.
pub(crate) fn kernel(dir: &Path) -> Result<(String, PathBuf), String> {
    let mut versions: Vec<_> = fs::read_dir("/boot")
        .map_err(|e| format!("/boot: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_string()))
        .filter(|version| Path::new("/lib/modules").join(version).is_dir())
        .collect();
    versions.sort_by_key(|version| numbers(version));
    let version = versions.pop().ok_or("/boot/vmlinuz-* with its /lib/modules")?;
    let vmlinux = dir.join("vmlinux");
    extract(&PathBuf::from(format!("/boot/vmlinuz-{version}")), &vmlinux)?;
    Ok((version, vmlinux))
}

/// The numbers in a version, so that 7.10 is newer than 7.3.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The files of modules and of what they need, in the order in which they are to be loaded.
fn modules(version: &str, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut all: Vec<PathBuf> = Vec::new();
    for name in names {
        let output = Command::new("/sbin/modprobe").args(["-S", version, "--show-depends", name]).output();
        let output = output.map_err(|e| format!("modprobe: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "builtin NAME" lines need nothing.
        let paths = text
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
            .map(|line| PathBuf::from(line.trim()));
        for path in paths {
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    Ok(all)
}

/// What unpacks what begins so: kernels and modules are of either kind.
const PACKERS: [(&[u8], &str, &[&str]); 2] =
    [(b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"]), (b"\x28\xb5\x2f\xfd", "zstd", &["-dc"])];

/// Takes the ELF file out of a bzImage: a stream of xz or zstd somewhere in it.
fn extract(image: &Path, to: &Path) -> Result<(), String> {
    let bytes = fs::read(image).map_err(|e| format!("{}: {e}", image.display()))?;
    for (magic, ..) in PACKERS {
        for at in bytes.windows(magic.len()).enumerate().filter(|(_, w)| *w == magic).map(|(at, _)| at) {
            let elf = unpack(&bytes[at..])?;
            if elf.starts_with(b"\x7fELF") {
                return fs::write(to, elf).map_err(|e| e.to_string());
            }
        }
    }
    // Another compression: QEMU boots the bzImage too.
    fs::write(to, bytes).map_err(|e| e.to_string())
}

/// What is in a stream; what follows it is ignored.
fn unpack(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let known = PACKERS.iter().find(|(magic, ..)| bytes.starts_with(magic));
    let (_, program, words) = known.ok_or("packed by neither xz nor zstd")?;
    let mut unpacker = Command::new(program)
        .args(*words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let mut stdin = unpacker.stdin.take().ok_or("no input")?;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = unpacker.wait_with_output().map_err(|e| e.to_string())?;
    // It may end before it took all.
    let _ = writer.join();
    Ok(output.stdout)
}

/// A cpio archive in the "newc" format, as the kernel's `buffer-format.txt` describes it.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    known: BTreeSet<String>,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let links = if mode & 0o170000 == 0o040000 { 2 } else { 1 };
        let fields = [
            self.known.len() as u32,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A folder, with those that it is in.
    pub(crate) fn dir(&mut self, name: &str) {
        if !self.known.insert(name.into()) {
            return;
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.entry(name, 0o040755, &[]);
    }

    /// A file.
    pub(crate) fn file(&mut self, name: &str, content: &[u8], executable: bool) {
        if !self.known.insert(name.into()) {
            return;
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.entry(name, if executable { 0o100755 } else { 0o100644 }, content);
    }

    /// A program of this machine.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> Result<(), String> {
        let bytes = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        self.file(to, &bytes, true);
        Ok(())
    }

    /// The shell, which runs `first` before it listens, and the folders that it needs.
    pub(crate) fn shell(&mut self, first: &str) -> Result<(), String> {
        self.file("init", INIT.replace("@FIRST@", first).as_bytes(), true);
        self.copy(Path::new("/bin/busybox"), "bin/busybox")?;
        for empty in ["proc", "sys", "dev", "tmp", "mnt"] {
            self.dir(empty);
        }
        Ok(())
    }

    /// Modules and what they need, unpacked, with their order in `/modules.order`.
    pub(crate) fn modules(&mut self, version: &str, names: &[&str]) -> Result<(), String> {
        let mut order = String::new();
        for path in modules(version, names)? {
            let name =
                path.file_name().and_then(|n| n.to_str()).ok_or("a module without a name")?.to_string();
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let (name, bytes) = match name.strip_suffix(".xz").or(name.strip_suffix(".zst")) {
                Some(short) => (short.to_string(), unpack(&bytes)?),
                None => (name, bytes),
            };
            order += &format!("{name} ");
            self.file(&format!("modules/{name}"), &bytes, false);
        }
        self.file("modules.order", order.as_bytes(), false);
        Ok(())
    }

    /// A program of this machine by its name, and the libraries that it is linked with.
    pub(crate) fn program(&mut self, name: &str) -> Result<(), String> {
        let place = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|dir| Path::new(dir).join(name));
        let path = place.iter().find(|path| path.is_file()).ok_or(name)?;
        self.linked(path, name)
    }

    /// A program from anywhere, as `/usr/bin/NAME`, and the libraries that it is linked with.
    pub(crate) fn linked(&mut self, path: &Path, name: &str) -> Result<(), String> {
        self.copy(path, &format!("usr/bin/{name}"))?;
        let output = Command::new("ldd").arg(path).output().map_err(|e| format!("ldd: {e}"))?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            self.copy(Path::new(word), word.trim_start_matches('/'))?;
        }
        Ok(())
    }

    /// The archive as it is now, with its end; more may still be added.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut end = Archive { bytes: self.bytes.clone(), known: BTreeSet::new() };
        end.entry("TRAILER!!!", 0, &[]);
        end.bytes
    }
}
