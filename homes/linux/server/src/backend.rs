//! One disk for one client, as QEMU's documentation sets it for back-end programs.

use std::path::Path;

use nvme_linux::caps::{self, CapWord, Capabilities, Place};
use nvme_policy::command_line::{Backend, BackendSocket};
use nvme_policy::{Access, DeviceName, DsMax, Policy};

use crate::failure::Failure;

/// What `--print-capabilities` prints (QEMU's `docs/interop/vhost-user.json`, `VHostUserBackendCapabilities`).
pub(crate) const CAPABILITIES: &str = "\
{
  \"type\": \"block\",
  \"features\": [
    \"read-only\",
    \"blk-file\"
  ]
}
";

/// What is served so.
pub(crate) struct OneDisk {
    /// What its client is called, in the log and in errors.
    pub(crate) client: &'static str,
    /// The disk and the socket.
    pub(crate) words: [CapWord; 2],
    /// What the client may do.
    pub(crate) policy: Policy,
    /// Whether the server ends with the client.
    pub(crate) last: bool,
}

impl OneDisk {
    pub(crate) fn new(asked: &Backend<'_>) -> Result<Self, Failure> {
        let (client, place) = match asked.socket {
            BackendSocket::Path(path) => ("socket-path", Place::Path(path.into())),
            BackendSocket::Fd(number) => ("fd", Place::Fd(number)),
        };
        let disk = Path::new(asked.blk_file);
        let words = caps::backend(disk, asked.read_only, client, place);
        let serial = caps::serial(disk);
        let device = DeviceName::parse(&format!("{serial}:n1"))
            .map_err(|why| Failure::asked(format!("--blk-file: {why}")))?;
        let access = if asked.read_only { Access::ReadOnly } else { Access::ReadWrite };
        // There is nobody to share with.
        let policy = Policy::new(device, DsMax::MOST, access);
        Ok(Self { client, words, policy, last: matches!(asked.socket, BackendSocket::Fd(_)) })
    }

    /// That nothing was inherited by name that is more than this.
    pub(crate) fn is_all_of(capabilities: &Capabilities) -> Result<(), Failure> {
        if capabilities.upgrade.is_some() {
            return Err(Failure::asked(
                "--blk-file: what is served so is not handed over; leave the capability upgrade out",
            ));
        }
        if capabilities.svr.is_some() || capabilities.controllers.len() != 1 {
            return Err(Failure::asked(
                "--blk-file: one disk is served, without a factory; leave the capabilities svr and vbus out",
            ));
        }
        Ok(())
    }
}
