//! `cargo xtask package`: the Debian package (`deb`), installed, started under systemd, used by a virtual machine, upgraded, removed and
//! purged, in a container over an overlay of this machine.

mod deb;

use std::fs;

use crate::machine::archive::{self, Archive};
use crate::units::{Check, Result, cannot, check, root};
use root::Root;

pub(crate) use deb::deb;

/// What the guest does: reads, writes, reads again what it wrote, and ends.
const GUEST: &str = "\
i=0; while [ ! -e /dev/vda ] && [ $i -lt 500 ]; do sleep 0.02; i=$((i+1)); done
echo \"GUEST $(cat /sys/block/vda/serial) $(head -c 5 /dev/vda)\"
echo written-by-the-guest | dd of=/dev/vda bs=512 seek=8 conv=fsync 2>/dev/null && echo GUEST-WROTE
poweroff -f
";

const PRELUDE: &str = r#"
# For half a minute.
until_good() { for i in $(seq 300); do "$@" && return 0; sleep 0.1; done; return 1; }
shown() { timeout 10 nvme-ctl ls 2>/dev/null | grep device=1234:n1; }
main_pid() { systemctl show -p MainPID --value nvme-drv; }
# What bash completes the last word to, by the function that the completions name.
comp() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    $(complete -p $1 | sed 's/.*-F \([^ ]*\).*/\1/') $1 "${@: -1}" $1; echo ${COMPREPLY[*]}; }
# What of the package there is, but for its disks' folder and what is kept of every package.
traces() { find /usr /etc /var -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /var/lib/nvme-drv \) -prune -o \
    \( -name '*nvme-drv*' -o -name '*nvme-ctl*' -o -name '*nvme-ned*' -o -name '*nvme-decode*' -o -name 'nvme-session*' \) -print; }
"#;

const CHECKS: &[Check] = &[
    ("nothing of it is there before", "echo \"there: [$(traces)]\"", 0, "there: []"),
    ("it installs", "dpkg -i /nvme-drv.deb && dpkg -s nvme-drv | grep ^Status; id -un nvme-drv", 0, "nvme-drv"),
    ("nothing runs that was not asked for", "systemctl is-active nvme-drv.service nvme-drv-svr.socket; systemctl is-enabled nvme-drv.service", 1, "disabled"),
    (
        "four programs say which they are",
        "for p in nvme-drv nvme-ctl nvme-ned nvme-decode; do /usr/bin/$p -V; /usr/bin/$p -h >/dev/null || echo no help; done",
        0,
        "nvme-decode 0",
    ),
    (
        "each has a page",
        "cd /usr/share/man; bad=; for p in man8/nvme-drv.8 man1/nvme-ctl.1 man1/nvme-ctl-run.1 man1/nvme-ned.1 man1/nvme-decode.1; do
         zcat $p.gz | grep -q '^.TH' || bad=\"$bad $p\"; done; echo \"bad: [$bad]\"; zcat man8/nvme-drv.8.gz | grep -- '^.B .*register..ds'; cd /",
        0,
        "bad: []\n.B \\-d NAME, \\-\\-register",
    ),
    (
        "and completions",
        "for p in nvme-drv nvme-ctl nvme-ned nvme-decode; do . /usr/share/bash-completion/completions/$p; done
         comp nvme-drv --so; comp nvme-ctl cre
         ls /usr/share/zsh/vendor-completions/_nvme-ctl /usr/share/fish/vendor_completions.d/nvme-ctl.fish",
        0,
        "--socket-path\ncreate\n",
    ),
    (
        "management software finds it as a vhost-user back-end",
        "$(sed -n 's/.*\"binary\": \"\\(.*\\)\".*/\\1/p' /usr/share/qemu/vhost-user/50-nvme-drv.json) --print-capabilities",
        0,
        "\"type\": \"block\"",
    ),
    (
        "its units start",
        "truncate -s 64M /var/lib/nvme-drv/disk.img; printf HELLO | dd of=/var/lib/nvme-drv/disk.img conv=notrunc status=none
         chown nvme-drv: /var/lib/nvme-drv/disk.img
         sed -i 's/^#\\(NVME_DRV_ARGS=.*soft.*\\)/\\1/' /etc/nvme-drv/nvme-drv.conf
         systemctl enable --now nvme-drv.service 2>&1; until_good shown; journalctl -u nvme-drv -o cat | grep ready:",
        0,
        "ready: 1234:n1 (64 MiB); svr, inherited, ctl, inherited",
    ),
    (
        "a virtual machine uses it",
        "timeout 100 nvme-ctl run vda=1234:n1 -- qemu-system-x86_64 -accel tcg -cpu max -m 256 -nodefaults -display none -no-reboot \
           -object memory-backend-memfd,id=mem,size=256M,share=on -machine q35,memory-backend=mem \
           -chardev socket,id=a,fd={vda} -device vhost-user-blk-pci,chardev=a -kernel /vm/vmlinux -initrd /vm/initramfs \
           -append 'console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off' -serial stdio | tr -d '\\r'
         dd if=/var/lib/nvme-drv/disk.img bs=512 skip=8 count=1 status=none | head -c 20; echo",
        0,
        "GUEST 1234:n1 HELLO\nGUEST-WROTE\n",
    ),
    (
        "an upgrade leaves the server that runs, and its configuration",
        "pid=$(main_pid); dpkg -i /nvme-drv.deb >/dev/null && [ $pid = $(main_pid) ] && shown && grep ^NVME_DRV_ARGS /etc/nvme-drv/nvme-drv.conf",
        0,
        "NVME_DRV_ARGS=--cap vbus=soft",
    ),
    (
        "removed, it runs no more, and keeps its configuration",
        "dpkg -r nvme-drv >/dev/null; systemctl is-active nvme-drv.service nvme-drv-svr.socket; ls /etc/nvme-drv; echo \"programs: [$(ls /usr/bin | grep ^nvme-)]\"",
        0,
        "inactive\ninactive\nnvme-drv.conf\nprograms: []",
    ),
    (
        "purged, nothing of it is left but disk images and their owner",
        "dpkg -P nvme-drv >/dev/null; echo \"left: [$(traces)]\"; dpkg -s nvme-drv 2>&1 | head -n 1; ls /var/lib/nvme-drv; stat -c %U /var/lib/nvme-drv/disk.img",
        0,
        "left: []\ndpkg-query: package 'nvme-drv' is not installed and no information is available\ndisk.img\nnvme-drv\n",
    ),
];

/// Makes the package of programs of this profile, boots the container, and says what was found.
pub(crate) fn package(_: &[String]) -> Result<()> {
    if let Some(want) = root::wants() {
        return cannot("the package in a container", &format!("for want of {want}"));
    }
    let mut root = match Root::new() {
        Ok(root) => root,
        Err(why) => return cannot("the package in a container", &format!("for {why}")),
    };
    let made = deb::make(false)?;
    fs::copy(&made, root.inside("/nvme-drv.deb"))?;
    let vm = root.inside("/vm");
    fs::create_dir_all(&vm)?;
    let (version, kernel) = archive::kernel(&vm)?;
    debug_assert_eq!(kernel, vm.join("vmlinux"));
    let mut files = Archive::default();
    files.shell(GUEST)?;
    files.modules(&version, &["virtio_pci", "virtio_blk"])?;
    fs::write(vm.join("initramfs"), files.finish())?;
    check(&mut root, PRELUDE, CHECKS, "the package does not do what it should")
}
