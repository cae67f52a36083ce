//! What the manual says.

use nvme_policy::command_line::Topic;

use super::Part::{Items, Lines, Options, Text};
use super::Section;

/// What the program is for.
pub const ABOUT: &str = "export NVMe disks and partitions to VMs as virtio block devices";

/// How it is started.
pub const USAGE: &[&str] = &[
    "nvme-drv --cap vbus=SPEC --cap svr=unix:PATH [OPTION]...",
    "nvme-drv --cap vbus=SPEC --client NAME --device DEV --cap NAME=unix:PATH [OPTION]...",
    "nvme-drv --cap vbus=SPEC --factory NAME --device DEV... --cap NAME=unix:PATH [OPTION]...",
    "nvme-drv --blk-file PATH --socket-path PATH|--fd N [--read-only] [OPTION]...",
];

/// The sections, in order.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "DESCRIPTION",
        parts: &[Text(
            "The server owns the controllers that it is given, and serves each client the one device that it was granted, over \
             vhost-user-blk. Clients ask for sessions on the socket `svr` (see nvme-ctl), or are configured here (--client). A tenant asks \
             on a socket of its own, for what it was given (--factory).",
        )],
    },
    Section {
        title: "CLIENTS",
        parts: &[Options(Topic::Clients), Options(Topic::OfClient), Options(Topic::Trusted)],
    },
    Section {
        title: "TENANTS",
        parts: &[
            Options(Topic::Factories),
            Options(Topic::OfFactory),
            Text(
                "A device that is not there is warned of, and had when it first appears. Factories can also be made while the server \
                 runs: nvme-ctl delegate.",
            ),
        ],
    },
    Section {
        title: "CAPABILITIES",
        parts: &[
            Text(
                "Authority comes from open descriptors, which have names. The parent process passes them by the systemd convention \
                 (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID), or the server opens them itself before it gives up its own authority:",
            ),
            Options(Topic::Capabilities),
            Items(&[
                ("vbus", 2, "a controller (required, may be repeated): one of"),
                (
                    "soft:IMAGE[,serial=SN][,lba=512|4096][,ro][,engine=auto|window|uring|threads][,preallocate][,pin]",
                    4,
                    "the software controller over an image file or a block device",
                ),
                ("soft:mem:SIZE[,...]", 4, "the same over memory"),
                (
                    "pci:DDDD:BB:DD.F[,doorbell-buffers]",
                    4,
                    "a PCI function that vfio-pci has (nvme-ctl bind); with doorbells in memory, where it is a virtual one that offers that",
                ),
                (
                    "svr",
                    2,
                    "the factory: unix:PATH[,mode=0660][,user=U][,group=G]. Required unless there is a --client or a --factory. \
                     Whoever can connect to it can ask for any disk.",
                ),
                ("ctl", 2, "read-only introspection, for nvme-ctl ls: unix:PATH[,...]"),
                (
                    "admin",
                    2,
                    "the operator's, for nvme-ctl drain, end, limit, rescan, resume, verbose, audit --rotate: unix:PATH[,...]",
                ),
                (
                    "audit",
                    2,
                    "the audit trail, which is appended to: file:PATH[,required]. Required: nothing is granted that is not \
                     written down.",
                ),
                (
                    "metrics",
                    2,
                    "numbers for Prometheus, GET /metrics: unix:PATH[,...], tcp:ADDR:PORT (loopback, or with ,public)",
                ),
                (
                    "upgrade",
                    2,
                    "hand-over: unix:PATH[,...]. A program that is started with the same words while a server listens there takes over \
                     all that it holds, and it ends. Whoever may connect gets everything.",
                ),
                ("a client's NAME", 2, "unix:PATH[,...]"),
                ("a factory's NAME", 2, "unix:PATH[,...]; a socket of packets (SOCK_SEQPACKET)"),
                ("a dataspace's NAME", 2, "file:PATH"),
            ]),
        ],
    },
    Section {
        title: "DEVICES",
        parts: &[Items(&[
            ("SN:nNSID", 0, "a whole namespace, by the controller's serial number"),
            ("SN:nNSID:PART", 0, "its partition by number"),
            (
                "pci:DDDD:BB:DD.F:nNSID[:PART]",
                0,
                "the same by the controller's place, for drives of one serial number",
            ),
            ("UUID, partuuid:UUID", 0, "a partition by its UUID (or the 8-2 digit form of MBR disks)"),
            ("LABEL, partlabel:LABEL", 0, "a partition by its GPT name"),
        ])],
    },
    Section { title: "CONTROLLERS", parts: &[Options(Topic::Controllers)] },
    Section {
        title: "ONE DISK FOR ONE CLIENT",
        parts: &[
            Text(
                "As QEMU's documentation sets it for vhost-user back-end programs. There is no factory and no other client; the client \
                 may register up to 256 memory files.",
            ),
            Options(Topic::Backend),
        ],
    },
    Section { title: "SERVER", parts: &[Options(Topic::Server)] },
    Section {
        title: "SIGNALS",
        parts: &[Items(&[
            (
                "SIGTERM, SIGINT",
                0,
                "let sessions drain (30 seconds at most), shut the controllers down, and end with 0",
            ),
            ("SIGHUP, SIGUSR1, SIGUSR2", 0, "do nothing"),
        ])],
    },
    Section {
        title: "EXIT STATUS",
        parts: &[Items(&[
            ("0", 0, "told to stop, or the client of --fd is gone"),
            (
                "2",
                0,
                "what was asked for is wrong: an option, a capability, an image that is in use; it says which",
            ),
            ("1", 0, "anything else"),
        ])],
    },
    Section {
        title: "EXAMPLES",
        parts: &[Lines(&[
            "nvme-drv --cap vbus=soft:disk.img,serial=1234 \\",
            "    --cap svr=unix:/run/nvme-drv/svr &",
            "nvme-ctl run d=1234:n1,read-only -- qemu-system-x86_64 ... \\",
            "    -chardev socket,id=c,fd={d} -device vhost-user-blk-pci,chardev=c",
        ])],
    },
];
