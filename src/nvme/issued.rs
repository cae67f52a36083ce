//! A command in flight, and what came of it so far.

use alloc::vec::Vec;

use nvme_platform::Time;
use nvme_session::queue::Request;

use super::retry;
use super::transfer::How;

/// A command in flight.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) request: Request,
    pub(super) deadline: Time,
    pub(super) how: How,
    pub(super) standing: Standing,
}

// It is written for each request, and read again: what makes it larger makes each request slower.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Option<Issued>>() <= 104);

/// Where a command stands. It is no larger than what a command needs that never fails: the rest is kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The controller has it, for the first time, and its data is the client's memory.
    Direct,
    /// The controller has it, for the first time, and its data is in this chunk of bounce memory.
    Bounced(u16),
    /// The controller has it once more.
    Repeated,
    /// The controller has it not: it is issued again later.
    Parked,
}

impl Standing {
    /// Given to the controller for the first time.
    #[inline(always)]
    pub(super) fn first(chunk: Option<u16>) -> Self {
        chunk.map_or(Self::Direct, Self::Bounced)
    }
}

/// What came of a command so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Past {
    /// How often it failed.
    pub(super) tries: u8,
    pub(super) late: Late,
    /// Its chunk of bounce memory.
    pub(super) chunk: Option<u16>,
}

/// Whether the deadline of a command has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Late {
    /// It has not.
    Never,
    /// It has, and that was told: it is going to be aborted.
    Now,
    /// It had, and the command was issued again.
    Before,
    /// It has, for the second time.
    Again,
}

impl Past {
    /// Of a command that was issued for the first time.
    pub(super) fn none(chunk: Option<u16>) -> Self {
        Self { tries: 0, late: Late::Never, chunk }
    }

    pub(super) fn standing(self) -> Standing {
        if self == Self::none(self.chunk) { Standing::first(self.chunk) } else { Standing::Repeated }
    }

    pub(super) fn failed(self) -> Self {
        Self { tries: self.tries.saturating_add(1), ..self }
    }

    /// Its deadline has passed, or has passed once more for the same command.
    fn late(self) -> Self {
        let late = match self.late {
            Late::Never | Late::Now => Late::Now,
            Late::Before | Late::Again => Late::Again,
        };
        Self { late, ..self }
    }

    /// It is issued again, with a deadline of its own.
    pub(super) fn begun(self) -> Self {
        let late = if self.late == Late::Now { Late::Before } else { self.late };
        Self { late, ..self }
    }
}

/// The past of commands that failed, by slot, and the time when those are issued again that wait.
#[derive(Debug)]
pub(super) struct Pasts {
    /// Of those slots that had a past so far, and of those before them.
    kept: Vec<(Past, Time)>,
    /// How many there may be.
    most: usize,
    /// How many wait.
    pub(super) parked: u16,
}

impl Pasts {
    /// For so many slots.
    pub(super) fn new(slots: u16) -> Self {
        Self { kept: Vec::new(), most: usize::from(slots), parked: 0 }
    }

    /// The past of the command in this slot.
    pub(super) fn of(&self, slot: usize, standing: Standing) -> Past {
        match (standing, self.kept.get(slot)) {
            (Standing::Direct, _) => Past::none(None),
            (Standing::Bounced(chunk), _) => Past::none(Some(chunk)),
            (Standing::Repeated | Standing::Parked, Some((past, _))) => *past,
            // Whoever stands so was kept.
            (Standing::Repeated | Standing::Parked, None) => {
                Past { tries: retry::TRIES, late: Late::Again, chunk: None }
            }
        }
    }

    pub(super) fn keep(&mut self, slot: usize, past: Past, at: Time) {
        if self.kept.len() <= slot && slot < self.most {
            self.kept.resize(slot + 1, (Past::none(None), Time::from_nanos(0)));
        }
        if let Some(kept) = self.kept.get_mut(slot) {
            *kept = (past, at);
        }
    }

    /// When the command in this slot is issued again, or else is late.
    pub(super) fn next(&self, slot: usize, issued: &Issued) -> Time {
        match self.kept.get(slot) {
            Some((_, at)) if issued.standing == Standing::Parked => *at,
            _ => issued.deadline,
        }
    }

    /// The deadline of the command in this slot has passed. It is issued again only if it ends as one that was aborted, and once.
    pub(super) fn late(&mut self, slot: usize, issued: &mut Issued) {
        let past = self.of(slot, issued.standing).late();
        self.keep(slot, past, issued.deadline);
        issued.standing = Standing::Repeated;
    }
}
