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
//! own, [`BURST_OTHER`], and so have the operator's lines, since clients come and go as they like. Of both, one tenant's lines are a
//! share ([`speak_of`]).

mod limit;
mod line;
mod notify;
mod output;
mod tenants;

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

pub use limit::RateLimit;
use line::Line;
pub use line::{OPERATOR, REFUSAL, SERVER};
pub use notify::Notifier;
use output::Output;
use tenants::Tenants;
pub use tenants::{TENANT_BURST, TENANT_BURST_OTHER, speak_of};

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

    fn of_program() -> Self {
        let steps = VERBOSITY.load(Ordering::Relaxed);
        steps.checked_sub(Self::Normal as u8).map_or(Self::Quiet, Self::from_steps)
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
    /// Where there is no other: the program's own may be told to say more or less ([`set_verbosity`]).
    verbosity: Option<Verbosity>,
    inner: Mutex<Inner>,
}

struct Inner {
    output: Output,
    refusals: RateLimit,
    others: RateLimit,
    operator: RateLimit,
    tenants: Tenants,
}

/// Makes standard error the program's log. To be called once, before the sandbox is entered.
///
/// # Errors
/// Standard error has no descriptor to duplicate, or there is a logger already.
pub fn init(verbosity: Verbosity) -> std::io::Result<()> {
    use std::os::fd::AsFd;

    let stderr = std::io::stderr().as_fd().try_clone_to_owned()?;
    let logger = Logger { verbosity: None, ..Logger::new(stderr, verbosity) };
    log::set_boxed_logger(Box::new(logger)).map_err(std::io::Error::other)?;
    set_verbosity(verbosity);
    Ok(())
}

/// How much the program's log says.
static VERBOSITY: AtomicU8 = AtomicU8::new(Verbosity::Normal as u8);

/// Has the program's log say more, or less, from now on.
pub fn set_verbosity(verbosity: Verbosity) {
    // Nothing else depends on when others see it.
    VERBOSITY.store(verbosity as u8, Ordering::Relaxed);
    log::set_max_level(verbosity.filter());
}

impl Logger {
    /// A logger on any descriptor. Whether the journal reads it is taken from `JOURNAL_STREAM`.
    pub fn new(fd: OwnedFd, verbosity: Verbosity) -> Self {
        let output = Output::new(fd, std::env::var_os("JOURNAL_STREAM").as_deref());
        Self {
            verbosity: Some(verbosity),
            inner: Mutex::new(Inner {
                output,
                refusals: RateLimit::new(BURST),
                others: RateLimit::new(BURST_OTHER),
                operator: RateLimit::new(BURST_OTHER),
                tenants: Tenants::default(),
            }),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = metadata.level();
        match self.verbosity.unwrap_or_else(Verbosity::of_program) {
            Verbosity::Normal => {
                level <= Level::Warn
                    || (level == Level::Info && [OPERATOR, SERVER].contains(&metadata.target()))
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
        let Inner { output, refusals, others, operator, tenants } = &mut *inner;
        let refusal = record.target() == REFUSAL;
        if refusal || record.target() == OPERATOR {
            let (allowed, missed) = tenants.allow(refusal, now());
            if let Some((tenant, missed)) = missed {
                let count = format_args!("factory {tenant}: {missed} more lines were not shown");
                output.write(&Line::new(output.journal(), Level::Warn, OPERATOR, &count));
            }
            if !allowed {
                return;
            }
        }
        let limit = match record.level() {
            _ if refusal => Some((refusals, "refusals")),
            _ if record.target() == SERVER => None,
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

    /// Says how many lines were not shown: what the next second would have said.
    fn flush(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Inner { output, refusals, others, operator, tenants } = &mut *inner;
        for (tenant, missed) in tenants.rest() {
            let count = format_args!("factory {tenant}: {missed} more lines were not shown");
            output.write(&Line::new(output.journal(), Level::Warn, OPERATOR, &count));
        }
        for (limit, what) in [(refusals, "refusals"), (others, "warnings"), (operator, "lines")] {
            let missed = limit.rest();
            if missed > 0 {
                let count = format_args!("{missed} more {what} were not shown");
                output.write(&Line::new(output.journal(), Level::Warn, OPERATOR, &count));
            }
        }
    }
}

#[cfg(test)]
mod tests;
