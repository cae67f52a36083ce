//! What a controller tells the control role. Each step that was asked for ends in exactly one of these.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use nvme_platform::{DeviceError, DmaError};

use super::pair::{Doorbells, QueuePair};
use super::quiet::QueueQuiet;

/// One piece of news.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a pair is made once, and a queue of events is short")]
pub enum ControllerEvent {
    /// Bring-up is done: information, namespaces and limits are there, pairs can be created.
    Ready,
    /// Bring-up or a reset failed, and the controller does nothing more. With `quiet`, it was at least seen to stop, and
    /// no memory is in use; without, only [`cut_off`](super::Controller::cut_off) can prove that.
    Failed {
        /// Why.
        why: Failure,
        /// Proof for all pairs, if there is one.
        quiet: Option<QueueQuiet>,
    },
    /// A pair that [`create_pair`](super::Controller::create_pair) asked for.
    PairReady {
        /// As given to `create_pair`.
        token: u32,
        /// The pair, for its worker.
        pair: QueuePair,
    },
    /// A pair could not be created.
    PairFailed {
        /// As given to `create_pair`.
        token: u32,
        /// Why.
        why: PairError,
    },
    /// A pair's queues were deleted (or a reset took them away while that was asked for).
    PairDeleted {
        /// Which one.
        id: u16,
        /// Proof for its commands.
        quiet: QueueQuiet,
    },
    /// The queues of a pair exist again; hand the doorbells to [`QueuePair::restart`].
    PairRecreated {
        /// Which one.
        id: u16,
        /// Its new doorbells.
        doorbells: Doorbells,
    },
    /// The queues of a pair could not be created again. Its commands are still quiet by the proof that went before.
    PairLost {
        /// Which one.
        id: u16,
        /// Why.
        why: PairError,
    },
    /// An abort was answered, or was not.
    Aborted {
        /// The pair.
        pair: u16,
        /// The command.
        cid: u16,
        /// What became of it.
        outcome: AbortOutcome,
    },
    /// A reset finished and the controller is in order again. No pair exists any more: each is either created again
    /// ([`recreate_pair`](super::Controller::recreate_pair)) or ended with [`QueuePair::fail_all`].
    Reset {
        /// Proof for all pairs.
        quiet: QueueQuiet,
    },
    /// The controller is stuck: call [`reset`](super::Controller::reset), with all pairs back in the control role. Said
    /// once for each time that it gets stuck. A `delete_pair` that failed ends in this.
    ResetNeeded(ResetReason),
    /// Namespaces came, went or changed; [`namespaces`](super::Controller::namespaces) has the new list.
    NamespacesChanged,
    /// A read of the control role ended.
    ScanRead {
        /// As given to `scan_read`.
        token: u32,
        /// The bytes: a copy, taken once.
        result: Result<Vec<u8>, ScanError>,
    },
    /// The SMART log that was asked for.
    Smart(Smart),
    /// The device answers all ones, or the home says that it is gone. Only [`cut_off`](super::Controller::cut_off) makes
    /// sense now.
    Gone,
    /// The shutdown that was asked for ended; `clean`: the controller said so in time.
    ShutDown {
        /// Whether the controller confirmed it.
        clean: bool,
    },
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No NVM command set (CAP.CSS).
    CommandSet,
    /// Its smallest page is larger than 4 KiB (CAP.MPSMIN).
    PageSize,
    /// Its queues are too short (CAP.MQES) or have other entry sizes (SQES, CQES).
    QueueShape,
    /// It is a discovery or administrative controller (CNTRLTYPE).
    NotIo,
    /// CSTS.RDY did not become one in time.
    NotReady(Duration),
    /// CSTS.RDY did not become zero in time.
    NotStopped(Duration),
    /// CSTS.CFS is set.
    Fatal,
    /// An admin command that cannot be done without failed, with this status.
    Admin {
        /// The opcode.
        opcode: u8,
        /// The status field without its phase bit.
        status: u16,
    },
    /// An admin command had no answer in time.
    AdminTimeout {
        /// The opcode.
        opcode: u8,
    },
    /// After a reset it has another serial number, or is another model: what was asked of the first is not for this one.
    Another,
    /// It granted no I/O queue.
    NoQueues,
    /// No memory for its queues.
    Memory(DmaError),
    /// The bus or the home refused.
    Device(DeviceError),
    /// Something happened to the driver that cannot.
    Anomaly,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandSet => f.write_str("it has no NVM command set (CAP.CSS)"),
            Self::PageSize => f.write_str("its smallest page is larger than 4 KiB (CAP.MPSMIN)"),
            Self::QueueShape => f.write_str("its queues are too short, or have unusual entries"),
            Self::NotIo => f.write_str("it is not an I/O controller (CNTRLTYPE)"),
            Self::NotReady(d) => write!(f, "it did not become ready within {} ms (CSTS.RDY)", d.as_millis()),
            Self::NotStopped(d) => write!(f, "it did not stop within {} ms (CSTS.RDY)", d.as_millis()),
            Self::Fatal => f.write_str("it reports a fatal status (CSTS.CFS)"),
            Self::Admin { opcode, status } => {
                write!(f, "admin command {opcode:#04x} failed with status {status:#06x}")
            }
            Self::AdminTimeout { opcode } => {
                write!(f, "admin command {opcode:#04x} was not answered in time")
            }
            Self::Another => f.write_str("it came back from a reset as another"),
            Self::NoQueues => f.write_str("it grants no I/O queue"),
            Self::Memory(e) => write!(f, "no memory for its queues: {e}"),
            Self::Device(e) => e.fmt(f),
            Self::Anomaly => f.write_str("something happened to the driver that cannot"),
        }
    }
}

impl core::error::Error for Failure {}

/// Why there is no such queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairError {
    /// The controller is not ready.
    NotReady,
    /// All pairs are in use.
    None,
    /// The pair exists, is being worked on, or is not of this controller.
    Busy,
    /// No memory.
    Memory(DmaError),
    /// The controller refused, with this status.
    Refused(u16),
    /// The home has no doorbells for it.
    Device(DeviceError),
    /// A reset came in between.
    Reset,
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("the controller is not ready"),
            Self::None => f.write_str("all queue pairs are in use"),
            Self::Busy => f.write_str("the queue pair is in use"),
            Self::Memory(e) => write!(f, "no memory for the queue pair: {e}"),
            Self::Refused(status) => write!(f, "the controller refused the queue: status {status:#06x}"),
            Self::Device(e) => e.fmt(f),
            Self::Reset => f.write_str("the controller was reset"),
        }
    }
}

impl core::error::Error for PairError {}

/// What became of an abort. Whatever it says, only the command's own completion ends the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbortOutcome {
    /// The controller says that it aborted the command; its completion comes, or came before.
    Aborted,
    /// It did not, or cannot.
    NotAborted,
    /// It had no answer in time, or was not asked (too many aborts).
    Unanswered,
}

impl AbortOutcome {
    /// For the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::NotAborted => "not aborted",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Why only a reset helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetReason {
    /// CSTS.CFS is set, or CSTS.RDY went away.
    Fatal,
    /// An admin command had no answer in time.
    AdminTimeout {
        /// The opcode.
        opcode: u8,
    },
    /// It reports a persistent internal error by an asynchronous event.
    Internal,
    /// The bus reports an error of the device.
    Bus,
    /// The queues of this pair could not be deleted.
    DeleteFailed {
        /// Which pair.
        id: u16,
    },
    /// Something happened to the driver that cannot.
    Anomaly,
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fatal => f.write_str("it reports a fatal status"),
            Self::Internal => f.write_str("it reports a persistent internal error"),
            Self::Bus => f.write_str("the bus reports an error of it"),
            Self::AdminTimeout { opcode } => {
                write!(f, "admin command {opcode:#04x} was not answered in time")
            }
            Self::DeleteFailed { id } => write!(f, "queue pair {id} could not be deleted"),
            Self::Anomaly => f.write_str("something happened to the driver that cannot"),
        }
    }
}

/// Why the control role could not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanError {
    /// Longer than [`SCAN_MAX`](super::SCAN_MAX), or not of this controller.
    BadRange,
    /// No queue pair is free for it. Possible only when the controller granted a single one.
    NoPair,
    /// The controller failed it, with this status.
    Failed(u16),
    /// No answer in time.
    TimedOut,
    /// The controller is not ready, or was reset meanwhile.
    NotReady,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange => f.write_str("too much at once"),
            Self::NoPair => f.write_str("the controller's only queue pair is in use"),
            Self::Failed(status) => write!(f, "the controller failed it: status {status:#06x}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::NotReady => f.write_str("the controller is not ready"),
        }
    }
}

impl Smart {
    /// Its temperature in degrees Celsius.
    pub fn celsius(&self) -> i32 {
        i32::from(self.temperature) - 273
    }
}

/// What the SMART / Health Information log says, as far as somebody asks (NVM Express Base 2.0, 5.16.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Smart {
    /// Critical warning bits.
    pub critical: u8,
    /// Composite temperature in kelvins.
    pub temperature: u16,
    /// Available spare, percent.
    pub spare: u8,
    /// Endurance used, percent; may exceed 100.
    pub used: u8,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Power-on hours.
    pub hours: u128,
    /// How often it lost power though it had not been told.
    pub unsafe_shutdowns: u128,
    /// Entries that its error log ever had.
    pub error_entries: u128,
}
