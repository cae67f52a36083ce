//! `cargo xtask libvirt`: runs doc/libvirt.md with a real libvirtd, in mount and process namespaces of its own.
//!
//! The page's server command and its XML are taken as they stand; the guest gets a kernel besides, whose shell reads and writes the
//! disk and says how far it is. It needs root, libvirt and QEMU; what is missing is said by name, and is a failure where
//! `NVME_DRV_REQUIRE_VM` is set.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::machine::archive::{self, Archive};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long all of it may take.
const WAIT: &str = "300";

/// What the guest does: shows what is on its disk, then writes and reads back, a number at a time.
const GUEST: &str = "\
i=0; while [ ! -e /dev/vda ] && [ $i -lt 500 ]; do sleep 0.02; i=$((i+1)); done
echo \"GUEST $(cat /sys/block/vda/serial) $(head -c 5 /dev/vda)\"
n=0
while true; do
    n=$((n+1)); echo \"count $n.\" | dd of=/dev/vda bs=512 seek=8 conv=fsync,notrunc 2>/dev/null || echo GUEST-ERROR
    echo 1 >/proc/sys/vm/drop_caches
    [ \"$(dd if=/dev/vda bs=512 skip=8 count=1 2>/dev/null | head -n 1)\" = \"count $n.\" ] || echo GUEST-ERROR
    echo \"GUEST-COUNT $n\"; sleep 0.2
done &
";

/// The steps; `@SERVER@` is the page's command.
const STEPS: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$HERE/over"
cp -a /etc/libvirt "$HERE/over/etc"; mount --bind "$HERE/over/etc" /etc/libvirt
for d in /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/nvme-drv /run; do
    mkdir -p $d; mount -t tmpfs -o mode=0755 none $d
done
mkdir -p /run/nvme-drv /run/libvirt /var/lib/libvirt/qemu
# What namespaces like these do not have; the rest is as Debian ships it, QEMU's user among it.
printf '%s\n' 'cgroup_controllers = [ ]' 'namespaces = [ ]' 'security_driver = "none"' 'stdio_handler = "file"' \
    >>/etc/libvirt/qemu.conf
libvirtd >"$HERE/libvirtd.log" 2>&1 &
truncate -s 64M /var/lib/nvme-drv/vm1.img
printf HELLO | dd of=/var/lib/nvme-drv/vm1.img conv=notrunc status=none
console=/var/log/libvirt/vm1.console
# For half a minute.
until_good() { for i in $(seq 300); do "$@" 2>/dev/null && return 0; sleep 0.1; done; return 1; }
virsh() { command virsh -c qemu:///system "$@"; }
count() { grep -o 'GUEST-COUNT [0-9]*' $console | tail -n 1 | tr -dc 0-9; }
beyond() { [ "$(count)" -gt $1 ]; }
good() { echo "ok     $1"; }
until_good virsh version >/dev/null
server() { export PATH="$PROGRAMS:$PATH"; @SERVER@ >>"$HERE/server.log" 2>&1 & drv=$!; }
server
until_good test -S /run/nvme-drv/vm1.sock
[ "$(stat -c '%U %a' /run/nvme-drv/vm1.sock)" = "libvirt-qemu 600" ]; good "the socket is QEMU's alone"
virsh define "$HERE/domain.xml" >/dev/null; virsh start vm1 >/dev/null; good "the guest starts"
[ "$(stat -c %U /proc/$(cat /run/libvirt/qemu/vm1.pid))" = libvirt-qemu ]; good "QEMU is libvirt's user"
until_good grep -q "GUEST 1234:n1HELLO\|GUEST 1234:n1 HELLO" $console; good "it has the disk, by its name"
until_good beyond 2; good "it writes and reads"
before=$(count); kill $drv; wait $drv; good "the server ends with 0"
sleep 1; server
until_good beyond $((before + 3)); good "after the server's restart the guest goes on"
! grep -q GUEST-ERROR $console; good "and has seen no error"
virsh destroy vm1 >/dev/null; kill $drv; wait $drv
[ "$(dd if=/var/lib/nvme-drv/vm1.img bs=512 skip=8 count=1 status=none | head -c 6)" = "count " ]; good "what it wrote is in the image"
echo DONE
"#;

pub(crate) fn libvirt(_: &[String]) -> Result<()> {
    if let Some(want) = wants() {
        let line = format!("doc/libvirt.md, for want of {want}");
        if std::env::var_os("NVME_DRV_REQUIRE_VM").is_some() {
            return Err(line.into());
        }
        println!("skipped: {line}");
        return Ok(());
    }
    let programs = crate::vm::machine::build(&["nvme-drv"], false)?;
    let begin = Instant::now();
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    // QEMU's user reads the kernel.
    fs::set_permissions(here, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(here.join("over"))?;
    let page = fs::read_to_string(crate::root().join("doc/libvirt.md"))?;
    let (version, kernel) = archive::kernel(here)?;
    let initramfs = here.join("initramfs");
    let mut files = Archive::default();
    files.shell(GUEST)?;
    files.modules(&version, &["virtio_pci", "virtio_blk"])?;
    fs::write(&initramfs, files.finish())?;
    fs::write(here.join("domain.xml"), with_kernel(block(&page, "xml")?, &kernel, &initramfs)?)?;
    fs::write(here.join("steps"), STEPS.replace("@SERVER@", block(&page, "sh")?.trim()))?;
    let output = Command::new("timeout")
        .args([
            "-k",
            "5",
            WAIT,
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "bash",
        ])
        .arg(here.join("steps"))
        .env("HERE", here)
        .env("PROGRAMS", &programs)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    if output.status.success() && said.lines().last() == Some("DONE") {
        println!("doc/libvirt.md was run in {:.1} s", begin.elapsed().as_secs_f64());
        return Ok(());
    }
    for log in ["server.log", "libvirtd.log"] {
        println!("{log}:\n{}", fs::read_to_string(here.join(log)).unwrap_or_default());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("doc/libvirt.md does not do what it says, after the last line above: {why}").into())
}

/// What this machine lacks, and what to do about it.
fn wants() -> Option<String> {
    let user = Command::new("id").arg("-u").output().ok().map(|o| o.stdout);
    if user.as_deref() != Some(b"0\n") {
        return Some("root".into());
    }
    let there = |program: &str| {
        ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let programs = [
        ("libvirtd", "libvirt-daemon-system"),
        ("virsh", "libvirt-clients"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
    ];
    let missing = programs.iter().find(|(program, _)| !there(program));
    missing.map(|(program, package)| format!("{program}: apt-get install --no-install-recommends {package}"))
}

/// The first block of code of a page that is in that language.
fn block<'a>(page: &'a str, language: &str) -> Result<&'a str> {
    let (_, rest) =
        page.split_once(&format!("```{language}\n")).ok_or(format!("no {language} in the page"))?;
    Ok(rest.split_once("```").ok_or("a block without end")?.0)
}

/// The domain with a kernel: the page's boots from its disk.
fn with_kernel(xml: &str, kernel: &Path, initramfs: &Path) -> Result<String> {
    let more = format!(
        "<kernel>{}</kernel><initrd>{}</initrd><cmdline>console=ttyS0 quiet panic=-1 mitigations=off</cmdline></os>",
        kernel.display(),
        initramfs.display()
    );
    if xml.matches("</os>").count() != 1 {
        return Err("the page's domain has no <os>".into());
    }
    Ok(xml.replace("</os>", &more))
}
