//! How a command fails, and with which exit status.

use nvme_linux::factory::Refusal;
use rustix::io::Errno;

/// What was asked for is wrong.
const WRONG: u8 = 2;
/// It is refused: there is no such device, it is in use, it is not allowed.
const REFUSED: u8 = 3;
/// There is no server.
const NO_SERVER: u8 = 4;

/// Why a command ends, and with which status: 1 where nothing else says more.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) status: u8,
}

impl Failure {
    /// The words are wrong.
    pub(crate) fn wrong(text: String) -> Self {
        Self { text, status: WRONG }
    }

    /// It is not allowed.
    pub(crate) fn denied(text: String) -> Self {
        Self { text, status: REFUSED }
    }

    /// Nobody answers.
    pub(crate) fn no_server(text: String) -> Self {
        Self { text, status: NO_SERVER }
    }

    /// Whether nobody answers.
    pub(crate) fn is_no_server(&self) -> bool {
        self.status == NO_SERVER
    }

    /// The server refuses, with what to do.
    pub(crate) fn refused(what: &str, refusal: &Refusal) -> Self {
        let errno = Errno::from_raw_os_error(refusal.errno);
        let hint = match errno {
            Errno::NODEV => "; `nvme-ctl ls` shows what there is",
            Errno::BUSY => "; `nvme-ctl ls` shows who has it. Readers may share: read-only",
            // Orders of the operator say themselves what is waited for.
            Errno::AGAIN if !matches!(what, "drain" | "rescan") => {
                "; devices are still being scanned: try again"
            }
            Errno::CONNRESET => "; the server closed the connection: its log says why",
            _ => "",
        };
        let status = match errno {
            Errno::INVAL => WRONG,
            Errno::NODEV | Errno::BUSY | Errno::ACCESS | Errno::NOENT | Errno::NOMEM => REFUSED,
            _ => 1,
        };
        Self { text: format!("{what}: {refusal}{hint}"), status }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, status: 1 }
    }
}
