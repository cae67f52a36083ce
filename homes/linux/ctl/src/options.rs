//! The command line.

use std::path::PathBuf;
use std::time::Duration;

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

    /// Wait for a server that is starting, 30 seconds or as many; `ls` then also for all disks to be there
    #[arg(long, value_name = "SECONDS", global = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "30", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    wait: Option<u32>,

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
    /// Show what sessions do, a second: requests, bytes, latency, requests in flight
    ///
    /// Without SECONDS: of one second, once. With it: of each so many seconds, until it is interrupted.
    Stat {
        /// Print each report as one line of JSON, with all counters
        #[arg(long)]
        json: bool,
        /// Seconds between two reports
        #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
        seconds: Option<u32>,
    },
    /// Show what sessions do and how controllers are, in a terminal, until `q`
    ///
    /// Keys: `s` sorts by something else, the arrows select a session, `e` ends it, `l` limits it (both ask the operator's socket).
    Top {
        /// Seconds between two readings; 1 without it
        #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: Option<u32>,
    },
    /// Show the last requests that took long, and where their time went
    ///
    /// At most 64, the last one last. `of`: how many of its kind were taken and told together; `limit`: how long a limit had kept its queue waiting before it was taken; `line`: from then until the
    /// controller had all of it; `drive`: until that was seen to be done; `told`: until its driver had been told.
    Slow {
        /// Print the server's document as it is
        #[arg(long)]
        json: bool,
        /// How long at least, in milliseconds; 10 without it
        #[arg(value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
        ms: Option<u64>,
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
    /// Bound how much a session may do a second, from now on, or let it do as much as it likes
    ///
    /// What its factories allow to all their sessions together still holds.
    Limit {
        /// The session's number, as `nvme-ctl ls` shows it
        #[arg(value_name = "ID")]
        id: u64,
        /// iops=N, bytes=SIZE, iops=none, bytes=none, or none for both
        #[arg(value_name = "WORD", required = true)]
        words: Vec<String>,
    },
    /// Look again at controllers: their namespaces, how large images are, and partition tables
    ///
    /// Namespaces that grew are told to their sessions; what sessions have stays as it is.
    Rescan {
        /// The serial number of one controller; without it, all
        #[arg(value_name = "SN")]
        serial: Option<String>,
    },
    /// Have the sessions of a device finish what they have in flight, and wait
    ///
    /// What their machines ask from then on is done after `resume`: nothing fails, and nobody is disconnected. Sessions that are minted
    /// meanwhile wait too. Returns when nothing is in flight.
    Drain {
        /// A device, or a controller by its serial number; without it, everything
        #[arg(value_name = "DEV")]
        device: Option<String>,
    },
    /// Go on with what was drained; and with the image of that name whose write-back failed: flushes succeed again, though what was acknowledged before may be lost
    Resume {
        /// The device, or the controller's serial number; without it, all that was drained
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
        /// Have the server go on in FILE, which is made, from now on: the last record of the old file names it
        #[arg(long, conflicts_with_all = ["verify", "head"])]
        rotate: bool,
    },
    /// End a session: its client is disconnected, its memory given back
    ///
    /// A static client's begins anew, for whoever connects next.
    End {
        /// The session's number, as `ls` shows it
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Have the server say more, or less: as with so many -v
    Verbose {
        /// 0 to 3
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
        steps: u8,
    },
    /// Start the next server, and wait until it has taken over from the one that runs
    ///
    /// The command is the server's own, with the same words as the one that runs, `--cap upgrade=unix:PATH` among them. It goes on when
    /// nvme-ctl ends. For the unit's ExecReload=.
    #[command(override_usage = "nvme-ctl upgrade [--pid PID] -- COMMAND...")]
    Upgrade {
        /// The process of the server that runs; without it, what MAINPID says, as in a unit
        #[arg(long, value_name = "PID")]
        pid: Option<i32>,
        /// The command and its arguments
        #[arg(value_name = "COMMAND", last = true, required = true)]
        command: Vec<String>,
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
        Ok(Spec::Pci { address, doorbell_buffers: false }) => Ok(address),
        Ok(_) => Err("not a PCI address".into()),
        Err(why) => Err(why.to_string()),
    }
}

impl Options {
    /// Where the factory is.
    pub(crate) fn svr(&self) -> Place {
        self.factory().unwrap_or_else(|| self.find("svr", self.svr.as_deref(), "NVME_DRV_SVR"))
    }

    fn find(&self, name: &str, option: Option<&str>, variable: &str) -> Place {
        let wait = Duration::from_secs(self.wait.unwrap_or(0).into());
        find(name, option, std::env::var_os(variable)).waiting(wait)
    }

    /// The attenuated factory that is to be used, if one is.
    pub(crate) fn factory(&self) -> Option<Place> {
        let place = self.factory.as_deref()?;
        Some(self.find("factory", Some(place), ""))
    }

    /// Where the operator's socket is.
    pub(crate) fn admin(&self) -> Place {
        self.find("admin", self.admin.as_deref(), "NVME_DRV_ADMIN")
    }

    /// Where introspection is.
    pub(crate) fn ctl(&self) -> Place {
        self.find("ctl", self.ctl.as_deref(), "NVME_DRV_CTL")
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
    fn whoever_waits_says_for_how_long_or_not() {
        let wait = |words: &[&str]| {
            let line = ["nvme-ctl"].iter().chain(words);
            Options::try_parse_from(line).map(|options| options.ctl().wait.as_secs()).ok()
        };
        assert_eq!(wait(&["ls"]), Some(0));
        assert_eq!(wait(&["--wait", "ls"]), Some(30));
        assert_eq!(wait(&["ls", "--wait"]), Some(30));
        assert_eq!(wait(&["stat", "--wait=7", "3"]), Some(7));
        assert_eq!((wait(&["ls", "--wait=0"]), wait(&["ls", "--wait=x"])), (None, None));
    }

    #[test]
    fn the_words_of_a_command_that_is_run_are_its_own() {
        let line = ["nvme-ctl", "run", "a=1234:n1", "b=x", "--svr", "/s", "--", "sh", "--svr", "{a}"];
        let options = Options::try_parse_from(line).unwrap();
        let Command::Run { devices, command } = &options.command else { panic!("not run") };
        assert_eq!(devices.len(), 2);
        assert_eq!(command, &["sh", "--svr", "{a}"]);
        assert_eq!(options.svr(), find("svr", Some("/s"), None));
        assert!(Options::try_parse_from(["nvme-ctl", "run", "a=1234:n1"]).is_err());
        assert!(Options::try_parse_from(["nvme-ctl", "create", "device=x"]).is_err());
    }
}
