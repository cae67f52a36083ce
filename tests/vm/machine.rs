//! The machines of these tests: one disk of the server, by vhost-user.

use std::any::Any;
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
    /// More arguments for QEMU.
    pub(crate) more: &'static [&'static str],
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory: "256M", cpus: 1, vga: false, fio: false, more: &[] }
    }
}

impl Machine {
    /// Boots a machine with one disk and waits for its shell.
    pub(crate) fn boot(name: &'static str, kernel: &Kernel, attach: Attach, shape: &Shape) -> Machine {
        // The session goes in as descriptor 3: standard input is the one way to hand down a descriptor that no
        // other program started at the same time inherits.
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh", "qemu-system-x86_64"]);
        command.arg("-object").arg(format!("memory-backend-memfd,id=mem,size={},share=on", shape.memory));
        let hotplug = shape.more.contains(&"hotplug");
        let memory =
            if hotplug { format!("{},slots=4,maxmem=4G", shape.memory) } else { shape.memory.to_string() };
        command.args(["-M", "q35,memory-backend=mem", "-m", &memory, "-smp", &shape.cpus.to_string()]);
        command.args(["-vga", if shape.vga { "std" } else { "none" }]);
        let initramfs = if shape.fio { &kernel.initramfs_fio } else { &kernel.initramfs };
        let (input, held) = match attach {
            Attach::Fd(fd) => {
                command.args(["-chardev", "socket,id=disk,fd=3"]);
                (Stdio::from(fd), None)
            }
            Attach::Path(path, held) => {
                command.arg("-chardev").arg(format!("socket,id=disk,path={}", path.display()));
                (Stdio::null(), held.map(|held| Box::new(held) as Box<dyn Any>))
            }
        };
        command.args(["-device", "vhost-user-blk-pci,chardev=disk"]);
        let words = "memhp_default_state=online";
        Machine::launch(name, command, (&kernel.vmlinux, initramfs), words, input, held)
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
