//! What goes to the log.

use core::fmt;

use log::{LevelFilter, Log, Metadata, Record};
use nvme_l4re::sys;
use nvme_l4re_server::{Level, Output};
use nvme_policy::command_line::Verbosity;

/// The records of all crates, one line each.
struct Records;

impl Log for Records {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            log::Level::Info => "",
            log::Level::Debug => "debug: ",
            log::Level::Trace => "trace: ",
        };
        sys::line(format_args!("{level}{}", record.args()));
    }

    fn flush(&self) {}
}

static RECORDS: Records = Records;

/// The server's lines for the operator.
pub(crate) struct Lines(Verbosity);

impl Lines {
    /// From here on, what the operator wants to read goes to the log.
    pub(crate) fn start(verbosity: Verbosity) -> Self {
        let level = match verbosity {
            Verbosity::Quiet => LevelFilter::Off,
            Verbosity::Normal => LevelFilter::Warn,
            Verbosity::Info => LevelFilter::Info,
            Verbosity::Debug => LevelFilter::Debug,
            Verbosity::Trace => LevelFilter::Trace,
        };
        #[cfg(feature = "defmt")]
        if verbosity >= Verbosity::Debug {
            crate::frames::start();
        }
        // Fails only the second time.
        let _ = log::set_logger(&RECORDS);
        log::set_max_level(level);
        Self(verbosity)
    }
}

impl Output for Lines {
    fn line(&mut self, level: Level, line: fmt::Arguments<'_>) {
        if self.prints(level) {
            let name = match level {
                Level::Error => "error: ",
                Level::Warn => "warning: ",
                Level::Plain | Level::Info => "",
            };
            sys::line(format_args!("{name}{line}"));
        }
    }

    fn prints(&self, level: Level) -> bool {
        self.0 >= if level == Level::Info { Verbosity::Info } else { Verbosity::Normal }
    }
}
