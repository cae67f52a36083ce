//! A container's files, an overlay of this machine's, and its boot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Result;

/// How long all of it may take.
const WAIT: &str = "300";
/// Between the answers.
const MARK: &str = "@@@ ";

/// The programs, and where the unit looks for them.
const PROGRAMS: [&str; 4] = ["nvme-drv", "nvme-ctl", "blkcheck", "blkverify"];

/// Calls that only the unit's filter is to decide about.
const CALLS: &str = "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// A folder that is a whole system, gone with this value.
pub(crate) struct Root {
    folder: tempfile::TempDir,
}

/// What this machine lacks, and what to do about it.
pub(crate) fn wants() -> Option<String> {
    let user = Command::new("id").arg("-u").output().ok().map(|o| o.stdout);
    if user.as_deref() != Some(b"0\n") {
        return Some("root".into());
    }
    let there = |program: &str| {
        ["/usr/bin", "/bin", "/usr/sbin", "/lib/systemd"].iter().any(|f| Path::new(f).join(program).exists())
    };
    for (program, package) in
        [("systemd-nspawn", "systemd-container"), ("systemd", "systemd"), ("dbus-daemon", "dbus")]
    {
        if !there(program) {
            return Some(format!("{program}: apt-get install --no-install-recommends {package}"));
        }
    }
    None
}

fn command(words: &[&str]) -> Result<()> {
    let Some((program, rest)) = words.split_first() else { return Ok(()) };
    let output = Command::new(program).args(rest).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into())
}

impl Root {
    /// An overlay of `/`, whose changes are in memory.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = Self { folder };
        let at = root.place("");
        let at = at.to_str().ok_or("the folder's name is not UTF-8")?.trim_end_matches('/').to_owned();
        command(&["mount", "-t", "tmpfs", "-o", "mode=0755", "none", &at])?;
        for name in ["up", "work", "root"] {
            fs::create_dir(root.place(name))?;
        }
        let layers = format!("lowerdir=/,upperdir={at}/up,workdir={at}/work");
        command(&["mount", "-t", "overlay", "overlay", "-o", &layers, &format!("{at}/root")])
            .map_err(|why| format!("an overlay of this machine's files cannot be had here: {why}"))?;
        Ok(root)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the container.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        self.place("root").join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.inside(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(path, text)?)
    }

    /// Puts programs and units where a package puts them, and an image.
    pub(crate) fn install(&mut self) -> Result<()> {
        let programs = crate::vm::machine::build(&["nvme-drv", "nvme-client"], false)?;
        for name in PROGRAMS {
            let to = self.inside("/usr/bin").join(name);
            fs::copy(programs.join(name), &to).map_err(|e| format!("{name}: {e}"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        let systemd = crate::root().join("systemd");
        for entry in fs::read_dir(&systemd)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let text = fs::read_to_string(&path)?;
            match name.strip_suffix(".sysusers") {
                Some(name) => self.write(&format!("/usr/lib/sysusers.d/{name}.conf"), &text)?,
                None => self.write(&format!("/usr/lib/systemd/system/{name}"), &text)?,
            }
        }
        self.write("/etc/nvme-drv/nvme-drv.conf", "")?;
        self.write("/var/lib/nvme-drv/disk.img", "")?;
        fs::File::options().write(true).open(self.inside("/var/lib/nvme-drv/disk.img"))?.set_len(64 << 20)?;
        Ok(())
    }

    /// Boots, runs these commands one after the other in one shell, and powers off. The status and the output of each, as
    /// far as it came.
    pub(crate) fn run<'a>(
        &mut self,
        prelude: &str,
        commands: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<(i32, String)>> {
        let mut script = format!("{prelude}\n");
        for text in commands {
            // In braces, so that what one sets is there for the next.
            script += &format!("{{ {text}\n}} 2>&1 </dev/null\necho \"{MARK}$?\"\n");
        }
        self.write("/probe.sh", &script)?;
        let probe = "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/bash /probe.sh\n\
                     StandardOutput=file:/probe.out\nStandardError=file:/probe.out\n\
                     ExecStopPost=/bin/systemctl --force poweroff\n";
        self.write("/etc/systemd/system/nvme-probe.service", probe)?;
        let wants = self.inside("/etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        let _ = std::os::unix::fs::symlink("../nvme-probe.service", wants.join("nvme-probe.service"));
        let console = fs::File::create(self.place("console"))?;
        let machine = self.place("root");
        let mut boot = Command::new("timeout");
        boot.args(["-k", "5", WAIT, "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]);
        boot.args(["--private-network", &format!("--system-call-filter={CALLS}"), "-D"]).arg(machine);
        boot.args(["systemd.unit=multi-user.target", "systemd.mask=systemd-networkd.service"]);
        boot.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        boot.status()?;
        let said = fs::read(self.inside("/probe.out")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let mut answers = Vec::new();
        let mut text = String::new();
        for line in said.lines() {
            match line.strip_prefix(MARK).and_then(|status| status.parse().ok()) {
                Some(status) => answers.push((status, core::mem::take(&mut text))),
                None => text += &format!("{line}\n"),
            }
        }
        Ok(answers)
    }

    /// What the container said while it booted.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.place("console")).unwrap_or_default()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for name in ["root", ""] {
            let _ = Command::new("umount").arg("-l").arg(self.place(name)).stderr(Stdio::null()).status();
        }
    }
}
