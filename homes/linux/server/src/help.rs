//! What `--help` prints.

pub(crate) const TEXT: &str = "\
nvme-drv - export NVMe disks and partitions to virtual machines as virtio block devices

USAGE
    nvme-drv --cap vbus=SPEC --cap svr=unix:PATH [OPTION]...
    nvme-drv --cap vbus=SPEC --client NAME --device DEV --cap NAME=unix:PATH [OPTION]...

    The server owns the controllers that it is given, and serves each client the one
    device that it was granted, over vhost-user-blk. Clients ask for sessions on the
    socket `svr` (see nvme-ctl), or are configured here (--client).

CLIENTS
    --client NAME       a static client, served on the listening socket named NAME.
                        The next three options belong to it.
      --device DEV      what it gets (required; see DEVICES)
      --ds-max N        how many dataspaces (memory files) it may register;
                        1 to 256, default 2
      --readonly        it may only read
    -d NAME, --register-ds NAME
                        a trusted dataspace, by the name of its capability. With at
                        least one, no client can register any other memory.
                        May be repeated.

CAPABILITIES
    Authority comes from open descriptors, which have names. The parent process passes
    them by the systemd convention (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID), or the
    server opens them itself before it gives up its own authority:

    --cap NAME=SPEC     may be repeated. In a SPEC, fd=N stands for an inherited
                        descriptor in place of a path.
      vbus              a controller (required, may be repeated):
                          soft:IMAGE[,serial=SN][,lba=512|4096][,ro]
                              [,engine=auto|window|uring|threads][,preallocate]
                                  the software controller over an image file
                                  or a block device
                          soft:mem:SIZE[,...]
                                  the same over memory
                          pci:DDDD:BB:DD.F
                                  a PCI function that vfio-pci has (nvme-ctl bind)
      svr               the factory: unix:PATH[,mode=0660][,user=U][,group=G].
                        Required unless there is a --client. Whoever can connect to
                        it can ask for any disk.
      ctl               read-only introspection, for nvme-ctl ls: unix:PATH[,...]
      admin             the operator's, for nvme-ctl rescan and resume: unix:PATH[,...]
      a client's NAME   unix:PATH[,...]
      a dataspace's NAME
                        file:PATH

DEVICES
    SN:nNSID            a whole namespace, by the controller's serial number
    SN:nNSID:PART       its partition by number
    pci:DDDD:BB:DD.F:nNSID[:PART]
                        the same by the controller's place, for drives of one
                        serial number
    UUID, partuuid:UUID a partition by its UUID (or the 8-2 digit form of MBR disks)
    LABEL, partlabel:LABEL
                        a partition by its GPT name

CONTROLLERS
    --nosgl             do not use scatter-gather lists
    --nomsi, --nomsix   do not use MSI, MSI-X

SERVER
    --workers N         threads that serve requests; default 1
    --poll-us N         how long to poll after work before sleeping, in microseconds;
                        at most; default 32. Less where it does not pay
    --mem-max SIZE      memory that one session may register; default 64G
    --sessions-max N    sessions at a time; default 256
    -v, --verbose       say more; up to three times (info, debug, trace)
    -q, --quiet         say nothing at all. Of -v and -q the last one wins.
    --help, --version

SIGNALS
    SIGTERM, SIGINT     let sessions drain (30 seconds at most), shut the controllers
                        down, and end with 0
    SIGHUP, SIGUSR1, SIGUSR2
                        do nothing

EXIT STATUS
    0   told to stop
    2   what was asked for is wrong: an option, a capability, an image that is in use;
        it says which
    1   anything else

EXAMPLES
    nvme-drv --cap vbus=soft:disk.img,serial=1234 --cap svr=unix:/run/nvme-drv/svr &
    nvme-ctl run d=1234:n1,read-only -- qemu-system-x86_64 ... \\
        -chardev socket,id=c,fd={d} -device vhost-user-blk-pci,chardev=c
";
