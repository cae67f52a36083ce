//! Binding, the quick start, and every way to run the server.

use super::ADDRESS;
use super::bed::{Bed, disk_of, over, server};

/// A way to run the server.
struct Mode {
    options: &'static str,
    /// What its log must say then.
    says: &'static str,
    /// What follows the controller's address in its SPEC.
    spec: &'static str,
    /// Whether segment lists go to the controller as SGLs where PRPs cannot express them.
    sgl: bool,
}

const MODES: [Mode; 5] = [
    Mode { options: "", spec: "", says: "MSI-X with 65 vectors", sgl: true },
    Mode { options: "-v", spec: ",doorbell-buffers", says: "its doorbells are in memory", sgl: true },
    Mode { options: "--nosgl", spec: "", says: "MSI-X with 65 vectors", sgl: false },
    Mode { options: "--nomsix", spec: "", says: "INTx with 1 vectors", sgl: true },
    Mode {
        options: "--nomsix --nomsi --nosgl --workers 2",
        spec: "",
        says: "INTx with 1 vectors",
        sgl: false,
    },
];

impl Bed {
    /// From the kernel's driver to VFIO.
    pub(super) fn binding(&mut self) {
        let bind = format!("nvme-ctl bind {ADDRESS}");
        let bound = format!("{ADDRESS} is not bound to vfio-pci (driver nvme); bind it: {bind}");
        self.check("a controller of the kernel's is refused", &server(), 2, &bound);
        let disk = disk_of(ADDRESS, 1);
        self.guest.run(&format!("D=$({disk}) && mkfs.ext4 -q -F -O ^has_journal ${{D}}p2"));
        self.guest.run("mount -t ext4 ${D}p2 /mnt");
        self.check("a controller in use is not bound", &bind, 1, " is mounted");
        self.check("bind", &format!("umount /mnt && {bind}"), 0, "");
    }

    /// `cargo xtask quickstart`, with its two partitions on this controller.
    pub(super) fn quickstart(&mut self) {
        self.bound();
        let command = format!(
            "nvme-ned -e 'vbus_nvme = \"pci:{ADDRESS}\"' -e 'client = {{ \"/opt/bin/xtask\", \"quickstart-client\" }}' \
             --rom /opt/bin /src/quickstart.lua -- partlabel:golden partlabel:scratch >/tmp/quickstart; S=$?; \
             cat /tmp/quickstart; (exit $S)"
        );
        if self.check("quick start", &command, 0, "writable session: still works") {
            for says in [
                "Hello from a file",
                "refused: a write through the read-only session",
                "is in use (-16)",
                "refused: DMA to unregistered memory",
                "refused: a dataspace that is not trusted",
            ] {
                self.check("quick start", &format!("grep -F '{says}' /tmp/quickstart"), 0, says);
            }
        }
    }

    /// The server in each way.
    pub(super) fn modes(&mut self) {
        self.bound();
        for mode in MODES {
            self.mode(&mode);
        }
    }

    /// One request after the other: the worker looks for what came, and goes to sleep, at any moment of the device's. One whose interrupt it
    /// does not notice waits until it looks by itself, a second later.
    fn one_at_a_time(&mut self) {
        let command = "blkbench /tmp/svr --create device=1234:n2 --depth 1 --time 6 --plain | tr ' ' '\\n' | grep ^longest=";
        let text = self.guest.run(command);
        let longest = text.trim().strip_prefix("longest=").and_then(|text| text.parse::<u64>().ok());
        let found = format!("the longest took {} ms", longest.unwrap_or(0) / 1_000_000);
        self.note(
            longest.is_some_and(|longest| longest < 900_000_000),
            "usual, one request after the other",
            &found,
        );
    }

    fn mode(&mut self, mode: &Mode) {
        let options = mode.options;
        let name = match (options, mode.spec) {
            ("", _) => "usual",
            (_, "") => options,
            (_, spec) => spec.trim_start_matches(','),
        };
        self.start(&format!("{} {options}", over(&format!("{ADDRESS}{}", mode.spec))));
        let [prp, sgl] = self.traced(|bed| {
            let command = "blkcheck /tmp/svr device=partlabel:scratch --mib 4";
            bed.check(&format!("{name}, blocks of 512"), command, 0, "ok ");
        });
        let found = format!("{prp} transfers by PRP, {sgl} by SGL");
        self.note(prp > 0 && (sgl > 0) == mode.sgl, &format!("{name}, as QEMU sees it"), &found);
        self.fio(&format!("{name}, blocks of 4096, fio"), "device=1234:n2", "16m");
        if name == "usual" {
            self.one_at_a_time();
        }
        let unbind = format!("nvme-ctl unbind {ADDRESS}");
        self.check(&format!("{name}, unbind while served is refused"), &unbind, 1, "in use by a program");
        self.check(&format!("{name}, log"), &format!("grep -F '{}' /tmp/log", mode.says), 0, mode.says);
        self.stop(&format!("{name}, stop"));
        self.check(&format!("{name}, no errors"), "! grep -E 'error|panick' /tmp/log", 0, "");
    }
}
