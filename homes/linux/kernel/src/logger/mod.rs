//! What the server says, on standard error.
//!
//! [`init`] makes a [`Logger`] the program's only one, behind the macros of the `log` crate. A record becomes one line
//! ([`line`]): never two, whatever a client put into it. The line is written at once or not at all ([`output`]): a
//! reader that does not read must not stop a thread. How many lines were lost is said as soon as there is room.
//!
//! What comes out:
//!
//! | | default | `-v` | `-vv` | `-vvv` | `-q` |
//! | --- | --- | --- | --- | --- | --- |
//! | errors, warnings, refusals | yes | yes | yes | yes | |
//! | [`OPERATOR`]'s lines (ready, stopping, who came and went) | yes | yes | yes | yes | |
//! | info | | yes | yes | yes | |
//! | debug | | | yes | yes | |
//! | trace | | | | yes | |
//!
//! A line that a client can cause has the target [`REFUSAL`]; of these there are at most [`BURST`] in a second, and then
//! one that counts the rest, so that a hostile client fills no disk. Other warnings and errors have a bound of their
//! own, [`BURST_OTHER`], and so have the operator's lines, since clients come and go as they like.

mod limit;
mod line;
mod notify;
mod output;

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use log::{Level, LevelFilter, Log, Metadata, Record};

pub use limit::RateLimit;
use line::Line;
pub use line::{OPERATOR, REFUSAL};
pub use notify::Notifier;
use output::Output;

use crate::events::now;

/// Lines about refusals in one second.
pub const BURST: u32 = 10;
/// Other warnings and errors in one second; and as many of the operator's lines.
pub const BURST_OTHER: u32 = 100;

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Verbosity {
    /// `-q`: nothing at all.
    Quiet,
    /// Errors, warnings and the operator's lines.
    #[default]
    Normal,
    /// `-v`.
    Info,
    /// `-vv`.
    Debug,
    /// `-vvv`.
    Trace,
}

impl Verbosity {
    /// From the number of `-v`; more than three are three.
    pub fn from_steps(steps: u8) -> Self {
        match steps {
            0 => Self::Normal,
            1 => Self::Info,
            2 => Self::Debug,
            _ => Self::Trace,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Quiet => LevelFilter::Off,
            Self::Normal | Self::Info => LevelFilter::Info,
            Self::Debug => LevelFilter::Debug,
            Self::Trace => LevelFilter::Trace,
        }
    }
}

/// Writes lines to one descriptor.
pub struct Logger {
    verbosity: Verbosity,
    inner: Mutex<Inner>,
}

struct Inner {
    output: Output,
    refusals: RateLimit,
    others: RateLimit,
    operator: RateLimit,
}

/// Makes standard error the program's log. To be called once, before the sandbox is entered.
///
/// # Errors
/// Standard error has no descriptor to duplicate, or there is a logger already.
pub fn init(verbosity: Verbosity) -> std::io::Result<()> {
    use std::os::fd::AsFd;

    let stderr = std::io::stderr().as_fd().try_clone_to_owned()?;
    log::set_boxed_logger(Box::new(Logger::new(stderr, verbosity))).map_err(std::io::Error::other)?;
    log::set_max_level(verbosity.filter());
    Ok(())
}

impl Logger {
    /// A logger on any descriptor. Whether the journal reads it is taken from `JOURNAL_STREAM`.
    pub fn new(fd: OwnedFd, verbosity: Verbosity) -> Self {
        let output = Output::new(fd, std::env::var_os("JOURNAL_STREAM").as_deref());
        Self {
            verbosity,
            inner: Mutex::new(Inner {
                output,
                refusals: RateLimit::new(BURST),
                others: RateLimit::new(BURST_OTHER),
                operator: RateLimit::new(BURST_OTHER),
            }),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = metadata.level();
        match self.verbosity {
            Verbosity::Normal => {
                level <= Level::Warn || (level == Level::Info && metadata.target() == OPERATOR)
            }
            other => level <= other.filter(),
        }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Waits while another thread writes a line, which itself waits for nothing.
        let mut inner = match self.inner.lock() {
            Ok(inner) => inner,
            Err(poisoned) => poisoned.into_inner(),
        };
        let Inner { output, refusals, others, operator } = &mut *inner;
        let limit = match record.level() {
            _ if record.target() == REFUSAL => Some((refusals, "refusals")),
            Level::Error | Level::Warn => Some((others, "warnings")),
            Level::Info if record.target() == OPERATOR => Some((operator, "lines")),
            _ => None,
        };
        if let Some((limit, what)) = limit {
            let (allowed, missed) = limit.allow(now());
            if missed > 0 {
                let count = format_args!("{missed} more {what} were not shown");
                output.write(&Line::new(output.journal(), Level::Warn, OPERATOR, &count));
            }
            if !allowed {
                return;
            }
        }
        output.write(&Line::new(output.journal(), record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests;
