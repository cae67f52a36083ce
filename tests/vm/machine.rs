//! The machines of these tests: one disk of the server, by vhost-user.

use std::any::Any;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kernel::Kernel;
use crate::server::Attach;
pub(crate) use crate::shared::console::Machine;

/// What a machine has.
pub(crate) struct Shape {
    pub(crate) memory: &'static str,
    pub(crate) cpus: u32,
    /// A VGA adapter, which splits the low memory.
    pub(crate) vga: bool,
    pub(crate) fio: bool,
    /// What else is special about it: `hotplug` (room for memory), `port` (the disk can be unplugged), `reconnect` (QEMU looks for
    /// the server again each second), `private` (its memory is not
    /// shared), `numa` (288M in three files).
    pub(crate) more: &'static [&'static str],
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory: "256M", cpus: 1, vga: false, fio: false, more: &[] }
    }
}

/// For the kernel.
const WORDS: &str = "memhp_default_state=online";

/// What tells QEMU to look for the server again each second: another word since 9.2, and the one before is gone since 10.0.
fn each_second() -> &'static str {
    let said = Command::new("qemu-system-x86_64").arg("--version").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let version = said.split_whitespace().nth(3).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (9, 2) { ",reconnect-ms=1000" } else { ",reconnect=1" }
}

/// QEMU's command, kernel and initramfs, its standard input, and what lives as long as the machine.
type Prepared<'k> = (Command, (&'k Path, &'k Path), Stdio, Option<Box<dyn Any>>);

impl Machine {
    /// Boots a machine with one disk and waits for its shell.
    pub(crate) fn boot(name: &'static str, kernel: &Kernel, attach: Attach, shape: &Shape) -> Machine {
        let (command, kernel, input, held) = Self::prepare(kernel, attach, shape);
        Machine::launch(name, command, kernel, WORDS, input, held)
    }

    /// The same without waiting for anything.
    pub(crate) fn begin(name: &'static str, kernel: &Kernel, attach: Attach, shape: &Shape) -> Machine {
        let (command, kernel, input, held) = Self::prepare(kernel, attach, shape);
        Machine::spawn(name, command, kernel, WORDS, input, held)
    }

    fn prepare<'k>(kernel: &'k Kernel, attach: Attach, shape: &Shape) -> Prepared<'k> {
        // The session goes in as descriptor 3: standard input is the one way to hand down a descriptor that no
        // other program started at the same time inherits.
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh", "qemu-system-x86_64"]);
        let file = |name: &str, size: &str| format!("memory-backend-memfd,id={name},size={size},share=on");
        let machine = if shape.more.contains(&"private") {
            // As QEMU has it where nobody says anything.
            "q35"
        } else if shape.more.contains(&"numa") {
            for node in 0..3 {
                command.arg("-object").arg(file(&format!("node{node}"), "96M"));
                command.arg("-numa").arg(format!("node,memdev=node{node}"));
            }
            "q35"
        } else {
            command.arg("-object").arg(file("mem", shape.memory));
            "q35,memory-backend=mem"
        };
        let hotplug = shape.more.contains(&"hotplug");
        let memory =
            if hotplug { format!("{},slots=4,maxmem=4G", shape.memory) } else { shape.memory.to_string() };
        command.args(["-M", machine, "-m", &memory, "-smp", &shape.cpus.to_string()]);
        command.args(["-vga", if shape.vga { "std" } else { "none" }]);
        let initramfs = if shape.fio { &kernel.initramfs_fio } else { &kernel.initramfs };
        let (input, held) = match attach {
            Attach::Fd(fd) => {
                command.args(["-chardev", "socket,id=disk,fd=3"]);
                (Stdio::from(fd), None)
            }
            Attach::Path(path, held) => {
                let again = if shape.more.contains(&"reconnect") { each_second() } else { "" };
                command.arg("-chardev").arg(format!("socket,id=disk,path={}{again}", path.display()));
                (Stdio::null(), held.map(|held| Box::new(held) as Box<dyn Any>))
            }
        };
        if shape.more.contains(&"port") {
            // Where a disk can be plugged.
            command.args(["-device", "pcie-root-port,id=slot1,chassis=1"]);
            command.args(["-device", "vhost-user-blk-pci,chardev=disk,id=disk0,bus=slot1"]);
        } else {
            command.args(["-device", "vhost-user-blk-pci,chardev=disk"]);
        }
        (command, (kernel.vmlinux.as_path(), initramfs.as_path()), input, held)
    }

    /// Restarts the guest and waits for its shell.
    pub(crate) fn reboot(&mut self) {
        self.start("sync; reboot -f");
        self.wait_ready();
    }

    /// Ends QEMU as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
