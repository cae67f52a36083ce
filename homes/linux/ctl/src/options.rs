//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use nvme_linux::caps::Spec;

use nvme_audit::Head;

use crate::run::Device;
use crate::server::{Place, find};

/// Asks a running nvme-drv for its inventory and for sessions.
///
/// Whoever can connect to the factory's socket can ask for any disk: its permissions are the protection.
#[derive(Debug, Parser)]
#[command(name = "nvme-ctl", version, max_term_width = 100)]
pub(crate) struct Options {
    /// The factory's socket, or fd=N for an inherited connection to it
    ///
    /// Without it: NVME_DRV_SVR, else /run/nvme-drv/svr.
    #[arg(long, value_name = "PATH", global = true)]
    svr: Option<String>,

    /// The introspection socket, or fd=N for an inherited connection to it
    ///
    /// Without it: NVME_DRV_CTL, else /run/nvme-drv/ctl.
    #[arg(long, value_name = "PATH", global = true)]
    ctl: Option<String>,

    /// The operator's socket, or fd=N for an inherited connection to it
    ///
    /// Without it: NVME_DRV_ADMIN, else /run/nvme-drv/admin.
    #[arg(long, value_name = "PATH", global = true)]
    admin: Option<String>,

    /// An attenuated factory's socket, or fd=N for an inherited connection to it: used in place of --svr; `ls` shows what it holds
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "svr")]
    factory: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show controllers, namespaces, partitions and sessions
    Ls {
        /// Print the server's document as it is
        #[arg(long)]
        json: bool,
    },
    /// Mint a session that takes clients at a socket of its own, and hold it
    ///
    /// The session ends with this command: on SIGINT or SIGTERM, or when the server ends it. Clients come one after the
    /// other: QEMU by `-chardev socket,path=PATH`, Cloud Hypervisor, crosvm, Firecracker.
    Create {
        /// device=DEV, and if wanted ds-max=N, read-only, ds=CAP, iops=N, bytes=SIZE and name=TEXT, in any order
        #[arg(value_name = "WORD", required = true)]
        words: Vec<String>,
        /// Where clients connect: PATH[,mode=0660][,user=U][,group=G]
        #[arg(long, value_name = "PATH")]
        listen: String,
    },
    /// Make a factory that holds a part of what this one holds, and hold its lifetime
    ///
    /// With --listen, its callers come to a socket of its own, and it ends with this command. With a command behind --, that inherits the
    /// factory: in its words, {factory} stands for the descriptor's number (`nvme-ctl --factory fd={factory} create …`). When the command is
    /// over, everything that came of the factory is taken back, whoever has copies of it.
    #[command(
        override_usage = "nvme-ctl delegate WORD... --listen PATH\n       nvme-ctl delegate WORD... -- COMMAND..."
    )]
    Delegate {
        /// device=DEV (one or more), and if wanted read-only, ds-max=N, ds=CAP, sessions=N, factories=N, mem-max=SIZE, iops=N, bytes=SIZE, iops-all=N, bytes-all=SIZE, name=TEXT
        #[arg(value_name = "WORD", required = true)]
        words: Vec<String>,
        /// Where callers connect: PATH[,mode=0660][,user=U][,group=G]
        #[arg(long, value_name = "PATH", required_unless_present = "command", conflicts_with = "command")]
        listen: Option<String>,
        /// The command and its arguments
        #[arg(value_name = "COMMAND", last = true)]
        command: Vec<String>,
    },
    /// Mint a session per NAME, and run a command that inherits them
    ///
    /// In the command's words, {NAME} stands for the number of that session's descriptor: for instance
    /// `-chardev socket,id=c,fd={vda}`. The command takes the place of nvme-ctl, so its exit status is that of the
    /// command; a session ends when the last process that has its descriptor does.
    #[command(override_usage = "nvme-ctl run NAME=DEV[,read-only][,ds-max=N]... -- COMMAND...")]
    Run {
        /// NAME=DEV[,read-only][,ds-max=N]
        #[arg(value_name = "NAME=DEV", required = true)]
        devices: Vec<Device>,
        /// The command and its arguments
        #[arg(value_name = "COMMAND", last = true, required = true)]
        command: Vec<String>,
    },
    /// Look again how large images are: those that grew are told to their sessions
    Rescan {
        /// The serial number of one; without it, all
        #[arg(value_name = "SN")]
        serial: Option<String>,
    },
    /// Let an image go on whose write-back failed: flushes succeed again, though what was acknowledged before may be lost
    Resume {
        /// The device, SN:n1; without it, all
        #[arg(value_name = "DEV")]
        device: Option<String>,
    },
    /// Print an audit trail for people, and whether it is one unbroken chain
    Audit {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print nothing of it, and only say whether it is sound
        #[arg(long)]
        verify: bool,
        /// A record that was written down elsewhere: the trail must hold it, unchanged
        #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
        head: Option<Head>,
    },
    /// Give a controller to vfio-pci, for `nvme-drv --cap vbus=pci:ADDRESS`
    ///
    /// Refuses one whose disks are mounted, swap, or part of another device. Needs root, the module vfio-pci, and no server.
    Bind {
        /// DDDD:BB:DD.F
        #[arg(value_name = "ADDRESS", value_parser = address)]
        address: String,
    },
    /// Give a controller back to the kernel's driver
    ///
    /// Refuses one that a program has open.
    Unbind {
        /// DDDD:BB:DD.F
        #[arg(value_name = "ADDRESS", value_parser = address)]
        address: String,
    },
}

fn head(word: &str) -> Result<Head, String> {
    word.parse().map_err(|()| "not SEQ:HASH, a number and 64 hexadecimal digits in lower case".to_owned())
}

/// A PCI address, as `--cap` has it; it becomes part of a path.
fn address(word: &str) -> Result<String, String> {
    match format!("pci:{word}").parse() {
        Ok(Spec::Pci(address)) => Ok(address),
        Ok(_) => Err("not a PCI address".into()),
        Err(why) => Err(why.to_string()),
    }
}

impl Options {
    /// Where the factory is.
    pub(crate) fn svr(&self) -> Place {
        self.factory().unwrap_or_else(|| find("svr", self.svr.as_deref(), std::env::var_os("NVME_DRV_SVR")))
    }

    /// The attenuated factory that is to be used, if one is.
    pub(crate) fn factory(&self) -> Option<Place> {
        self.factory.as_deref().map(|place| find("factory", Some(place), None))
    }

    /// Where the operator's socket is.
    pub(crate) fn admin(&self) -> Place {
        find("admin", self.admin.as_deref(), std::env::var_os("NVME_DRV_ADMIN"))
    }

    /// Where introspection is.
    pub(crate) fn ctl(&self) -> Place {
        find("ctl", self.ctl.as_deref(), std::env::var_os("NVME_DRV_CTL"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn only_a_pci_address_can_be_bound() {
        let parse = |word: &str| Options::try_parse_from(["nvme-ctl", "bind", word]);
        let Command::Bind { address } = parse("0000:AB:00.0").unwrap().command else { panic!("not bind") };
        assert_eq!(address, "0000:ab:00.0");
        for bad in ["ab:00.0", "../../x", "0000:ab:00.0/..", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_words_of_a_command_that_is_run_are_its_own() {
        let line = ["nvme-ctl", "run", "a=1234:n1", "b=x", "--svr", "/s", "--", "sh", "--svr", "{a}"];
        let options = Options::try_parse_from(line).unwrap();
        let Command::Run { devices, command } = &options.command else { panic!("not run") };
        assert_eq!(devices.len(), 2);
        assert_eq!(command, &["sh", "--svr", "{a}"]);
        assert_eq!(options.svr(), Place::Path("/s".into()));
        assert!(Options::try_parse_from(["nvme-ctl", "run", "a=1234:n1"]).is_err());
        assert!(Options::try_parse_from(["nvme-ctl", "create", "device=x"]).is_err());
    }
}
