//! Running I/O commands: a batch from one submission queue.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use nvme_platform::{Table, Time};
use zerocopy::transmute;

use crate::batch::{BYTES_SHIFT, Batch};
use crate::chip::Chip;
use crate::command::{Counts, Executor};
use crate::faulty::Held;
use crate::flight::Flight;
use crate::map::Hits;
use crate::namespace::Way;
use crate::queue::{Inside, Poster, Seen, SubmissionQueue};
use crate::shared::{Shared, Trouble};
use crate::storage::{Begun, Request};
use crate::stored::{AGAIN, is_stored};
use crate::transfer::Dma;
use crate::wire::{Sqe, Status};

/// Runs up to `budget` commands of one queue, and says when there is more to do.
#[inline]
pub(crate) fn run(chip: &Chip, sq: &SubmissionQueue, budget: u32, now: Time) -> Option<Time> {
    let way = chip.way();
    // What is in memory is ordered by the load in the batch; here it only matters whether to go there.
    let idle = sq.tail.load(Ordering::Relaxed) == sq.head.load(Ordering::Relaxed);
    match way {
        Way::Any => run_any(chip, sq, budget, now, None),
        Way::AtOnce if idle => None,
        Way::AtOnce => inside(chip, sq, now, |within| run_plain::<false>(sq, within, budget, now).0),
        Way::MostAtOnce if idle && !sq.waits.load(Ordering::Relaxed) => None,
        Way::MostAtOnce => inside(chip, sq, now, |within| run_most(chip, sq, within, budget, now)),
    }
}

/// A batch where most commands are done at once, and what is not is a request.
#[inline(always)]
fn run_most(chip: &Chip, sq: &SubmissionQueue, mut within: Within<'_>, budget: u32, now: Time) -> Ran {
    let mut spent = 0;
    let mut ran = Ran { next: None, head: within.head, posted: false, counts: Counts::default() };
    // While some take their time, those that came back have their turn first.
    if within.flight.count == 0 {
        let stopped;
        (ran, stopped) = run_plain::<true>(sq, within.again(), budget, now);
        match stopped {
            None => return ran,
            Some(units) => spent = units,
        }
    }
    within.head = ran.head;
    aside(|| {
        let (posted, counts) = (ran.posted, ran.counts);
        let left = budget.saturating_sub(spent).max(1);
        let mut rest = run_slow(chip, sq, within.again(), left, now);
        sq.waits.store(within.flight.count > 0, Ordering::Relaxed);
        rest.counts.add(&counts);
        Ran { posted: posted || rest.posted, ..rest }
    })
}

/// The same where commands may take their time, or meet with rules. `apart`: what may take long is put there, to be
/// [begun](begin) outside of the gate.
#[cold]
#[inline(never)]
pub(crate) fn run_any(
    chip: &Chip,
    sq: &SubmissionQueue,
    budget: u32,
    now: Time,
    mut apart: Option<&mut Vec<Request>>,
) -> Option<Time> {
    let next = inside(chip, sq, now, |mut within| {
        within.flight.apart = apart.as_deref_mut().map(core::mem::take);
        let ran = run_slow(chip, sq, within.again(), budget, now);
        if let (Some(apart), Some(begun)) = (&mut apart, within.flight.apart.take()) {
            **apart = begun;
        }
        sq.waits.store(within.flight.count > 0, Ordering::Relaxed);
        ran
    });
    if chip.faults.is_some() {
        chip.tell(now);
    }
    next
}

fn run_slow(chip: &Chip, sq: &SubmissionQueue, within: Within<'_>, budget: u32, now: Time) -> Ran {
    let Within { head, poster, seen, held, flight } = within;
    let Seen { view, entries, completions, hits, .. } = seen;
    let executor = Executor { dma: Dma { view, hits }, counts: Counts::default() };
    let (cq, ring) = (&*sq.completions, &*completions);
    let mut batch = Batch { sq, cq, entries, ring, poster, head, posted: 0, budget, executor };
    let next = batch.run_slow(chip, view, flight, held, now);
    let Batch { head, posted, executor, .. } = batch;
    Ran { next, head, posted: posted > 0, counts: executor.counts }
}

/// What a batch has inside its queue's gate.
struct Within<'w> {
    head: u32,
    poster: &'w mut Poster,
    seen: &'w mut Seen,
    held: &'w mut Vec<Held>,
    flight: &'w mut Flight,
}

impl Within<'_> {
    fn again(&mut self) -> Within<'_> {
        let Self { head, poster, seen, held, flight } = self;
        Within { head: *head, poster, seen, held, flight }
    }
}

/// What came of a batch.
struct Ran {
    next: Option<Time>,
    head: u32,
    posted: bool,
    counts: Counts,
}

/// Runs a batch inside the queue's gate, with its completion queue's poster, in the world as it is.
#[inline(always)]
fn inside(
    chip: &Chip,
    sq: &SubmissionQueue,
    now: Time,
    batch: impl FnOnce(Within<'_>) -> Ran,
) -> Option<Time> {
    let Some(mut inside) = sq.gate.enter() else {
        return (!sq.gate.is_closed()).then_some(now);
    };
    let cq = &*sq.completions;
    // Another queue's engine may be posting.
    let Some(mut poster) = cq.poster.try_lock() else { return Some(now) };
    let Inside { seen, held, flight } = &mut *inside;
    let seen = look(chip, sq, seen)?;
    let head = sq.head.load(Ordering::Relaxed);
    let Ran { next, head, posted, counts } = batch(Within { head, poster: &mut poster, seen, held, flight });
    sq.head.store(head, Ordering::Relaxed);
    chip.counters.add(&counts);
    drop(poster);
    drop(inside);
    if posted {
        chip.interrupt(cq.vector);
    }
    next
}

/// Begins requests, outside of any gate: control does not wait for what the memory that they name does to whoever touches it. Each
/// comes back to its queue. When to look again.
#[cold]
pub(crate) fn begin(requests: &mut Vec<Request>, now: Time) -> Option<Time> {
    let mut some = false;
    let mut left = core::mem::take(requests).into_iter();
    for request in left.by_ref() {
        match request.begin() {
            Begun::UnderWay => {}
            Begun::Ended(request, result) => {
                request.end(result);
                some = true;
            }
            Begun::Full(request) => {
                requests.push(request);
                break;
            }
        }
    }
    requests.extend(left);
    let full = !requests.is_empty();
    if some { Some(now) } else { full.then_some(now + AGAIN) }
}

/// A batch of commands that are done at once: as [`Batch`] has it, with nothing but what that takes. Where `STORED` blocks may be storage's
/// that is memory, it stops before the first command that is to be a request, and says how many units of the budget were spent.
#[inline(always)]
fn run_plain<const STORED: bool>(
    sq: &SubmissionQueue,
    within: Within<'_>,
    budget: u32,
    now: Time,
) -> (Ran, Option<u32>) {
    let Within { mut head, poster, seen, .. } = within;
    let Seen { view, entries, completions: ring, hits, .. } = seen;
    let entries = &*entries;
    let mut executor = Executor { dma: Dma { view, hits }, counts: Counts::default() };
    let cq = &*sq.completions;
    // What is left of the budget, of which each command uses as much as is one of its, and its bytes.
    let most = i64::from(budget) << BYTES_SHIFT;
    let mut left = most;
    let mut stopped = false;
    // How many commands there are for whose completions there is room, as far as was seen.
    let mut there = 0;
    let next = loop {
        if there == 0 {
            // Acquire: as in `pending` and `room`.
            let tail = sq.tail.load(Ordering::Acquire);
            if tail == head {
                break None;
            }
            let pending = if tail > head { tail - head } else { sq.size - head };
            there = pending.min(poster.free(cq.size, cq.head.load(Ordering::Acquire)));
            if there == 0 {
                break Some(now);
            }
        }
        if left <= 0 || sq.gate.asked() {
            break Some(now);
        }
        there -= 1;
        // Ours from here on: no word is read again, unless nothing comes of it here.
        let Ok(words) = entries.read_words(head, [0, 3, 5, 6]) else { break None };
        let [first, ..] = words;
        let done = match executor.read_fast::<STORED>(words) {
            Some(bytes) => Done { first, bytes, status: Status::SUCCESS },
            None => {
                let (executor, at) = (&mut executor, head);
                match aside(move || execute_any::<STORED>(executor, entries, at)) {
                    Executed::Ended(done) => done,
                    Executed::Stored => {
                        stopped = true;
                        break None;
                    }
                    Executed::Gone => break None,
                }
            }
        };
        head = if head + 1 >= sq.size { 0 } else { head + 1 };
        left -= done.bytes.cast_signed() + (1 << BYTES_SHIFT);
        let cid = done.first.to_le() >> 16 & 0xffff;
        let last = u64::from(head as u16) | u64::from(sq.id) << 16 | cid << 32;
        poster.post_words(ring, cq.size, [0, last | u64::from(done.status.0) << 49]);
    };
    let units = u32::try_from((most - left) >> BYTES_SHIFT).unwrap_or(u32::MAX);
    (Ran { next, head, posted: left < most, counts: executor.counts }, stopped.then_some(units))
}

/// The world as it is now. `None`: nothing can run.
#[inline]
fn look<'i>(shared: &Shared, sq: &SubmissionQueue, seen: &'i mut Option<Seen>) -> Option<&'i mut Seen> {
    // Acquire: pairs with the change of the world; control moves it before it passes the gate that we are inside of.
    let generation = shared.generation.load(Ordering::Acquire);
    if seen.as_ref().is_none_or(|s| s.generation != generation) {
        *seen = look_again(shared, sq);
    }
    seen.as_mut()
}

#[cold]
fn look_again(shared: &Shared, sq: &SubmissionQueue) -> Option<Seen> {
    let (generation, view) = shared.view();
    if !view.mastering {
        return None;
    }
    let entries = view.map.ring(sq.at, sq.len(), false).and_then(|w| Table::new(&w, 0, sq.size).ok());
    let completions = view.map.entries(sq.completions.at, sq.completions.size);
    let (Some(entries), Some(completions)) = (entries, completions) else {
        // The queue's memory is gone while there is work: nothing can be said but this.
        shared.counters.fault();
        shared.trouble(Trouble::Fatal);
        return None;
    };
    Some(Seen { generation, view, entries, completions, hits: Hits::default() })
}

/// Does what is done seldom, out of the way of what is done often.
#[cold]
#[inline(never)]
fn aside<R>(what: impl FnOnce() -> R) -> R {
    what()
}

/// A command that was executed.
struct Done {
    /// Its first word, as it is in the entry.
    first: u64,
    /// Bytes that were moved.
    bytes: u64,
    status: Status,
}

/// What came of a command.
enum Executed {
    Ended(Done),
    /// It is to be a request to its storage.
    Stored,
    /// Its entry cannot be read.
    Gone,
}

/// Executes a command of which nothing has come yet: its words are read anew.
fn execute_any<const STORED: bool>(
    executor: &mut Executor<'_>,
    entries: &Table<[u64; 8]>,
    at: u32,
) -> Executed {
    let Ok(words) = entries.read(at) else { return Executed::Gone };
    let [first, ..] = words;
    let sqe: Sqe = transmute!(words);
    let moved = |counts: &Counts| counts.bytes_read + counts.bytes_written;
    let before = moved(&executor.counts);
    let status = if STORED && is_stored(executor.dma.view, &sqe, false) {
        executor.copy(&sqe)
    } else {
        Some(executor.execute(&sqe))
    };
    let bytes = moved(&executor.counts) - before;
    status.map_or(Executed::Stored, |status| Executed::Ended(Done { first, bytes, status }))
}
