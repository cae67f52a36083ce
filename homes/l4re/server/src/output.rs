//! What the operator reads.

use core::fmt;

use nvme_platform::Time;

/// Lines that clients can cause in one second, at most.
const REFUSALS_PER_SECOND: u32 = 10;
const SECOND: u64 = 1_000_000_000;

/// What kind of line it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be, or was refused.
    Warn,
    /// What an integrator looks for: what there is. Printed unless the server is told to be quiet, without anything in front.
    Plain,
    /// What happens (`-v`).
    Info,
}

/// Where lines go. Which levels are printed is its own affair. Nothing on the data path says anything.
pub trait Output {
    /// Prints one line.
    fn line(&mut self, level: Level, line: fmt::Arguments<'_>);

    /// Whether lines of that level are printed: else they need not be made.
    fn prints(&self, level: Level) -> bool;
}

/// The lines that some clients can cause: the second that is counted, and what was said and kept back in it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Budget {
    second: u64,
    said: u32,
    kept_back: u32,
}

/// The server's own end of it, which bounds what clients can cause.
pub(crate) struct Lines<O> {
    output: O,
    /// What the clients of `svr` can cause.
    budget: Budget,
}

impl<O: Output> Lines<O> {
    pub(crate) fn new(output: O) -> Self {
        Self { output, budget: Budget::default() }
    }

    pub(crate) fn say(&mut self, level: Level, line: fmt::Arguments<'_>) {
        self.output.line(level, line);
    }

    pub(crate) fn prints(&self, level: Level) -> bool {
        self.output.prints(level)
    }

    /// A line that a client of the server's own factory caused.
    pub(crate) fn refuse(&mut self, now: Time, line: fmt::Arguments<'_>) {
        let mut budget = self.budget;
        self.refuse_of(&mut budget, now, line);
        self.budget = budget;
    }

    /// A line that a client caused whose lines are counted there.
    pub(crate) fn refuse_of(&mut self, budget: &mut Budget, now: Time, line: fmt::Arguments<'_>) {
        let second = now.as_nanos() / SECOND;
        if second != budget.second {
            (budget.second, budget.said) = (second, 0);
            let kept_back = core::mem::take(&mut budget.kept_back);
            if kept_back > 0 {
                self.output.line(Level::Warn, format_args!("{kept_back} refusals were not printed"));
            }
        }
        if budget.said < REFUSALS_PER_SECOND {
            budget.said += 1;
            self.output.line(Level::Warn, line);
        } else {
            budget.kept_back = budget.kept_back.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    use super::*;

    struct Kept(Vec<String>);

    impl Output for Kept {
        fn line(&mut self, _: Level, line: fmt::Arguments<'_>) {
            self.0.push(line.to_string());
        }

        fn prints(&self, _: Level) -> bool {
            true
        }
    }

    #[test]
    fn clients_cause_ten_lines_in_a_second_and_the_rest_is_counted() {
        let mut lines = Lines::new(Kept(Vec::new()));
        for at in 0..25 {
            lines.refuse(Time::from_nanos(5 * SECOND + at), format_args!("no"));
        }
        assert_eq!(lines.output.0.len(), 10);
        lines.refuse(Time::from_nanos(6 * SECOND), format_args!("no"));
        assert_eq!(lines.output.0[10..], ["15 refusals were not printed", "no"]);
    }
}
