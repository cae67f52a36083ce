//! Runs chosen by chance: which faults there are at all (swarm testing), how often which step is taken (weights that drift), and each step itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::besides::Steps;
use crate::driver::Kind;
use crate::judge::{Finding, Judge};
use crate::random::Random;
use crate::setup::Setup;
use crate::step::{Operation, Spoil, Step, Wish};
use crate::world::World;

/// Kinds of steps, as weights know them.
const KINDS: usize = 16;
/// What may be done without in a run.
const SWARM: [usize; 4] = [11, 12, 13, 14];

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its world.
    pub setup: Setup,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Steps that did something, those of settling included.
    pub taken: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Commands that were judged.
    pub judged: u64,
    /// The first promise that was broken.
    pub finding: Option<Finding>,
}

/// Chooses steps.
struct Chooser {
    random: Random,
    weights: [u32; KINDS],
    on: [bool; KINDS],
    wishes: u32,
    spoils: u32,
    operations: u32,
    /// Whether servers and connections are replaced.
    restarts: bool,
    seats: u32,
    /// What comes besides.
    besides: Option<Steps>,
}

impl Chooser {
    fn new(mut random: Random, setup: &Setup, restarts: bool, aside: Random) -> Self {
        let besides = Steps::new(aside, setup.seats.iter().any(|s| s.hostile)).filter(|_| !restarts);
        let mut on = [true; KINDS];
        for kind in SWARM {
            on[kind] = random.chance(500);
        }
        on[12] |= restarts;
        on[13] &= setup.faulty;
        on[15] = setup.slow;
        on[14] &= setup.seats.iter().any(|s| s.hostile);
        let (wishes, spoils, operations) = (random.next() as u32, random.next() as u32, random.next() as u32);
        let seats = setup.seats.len() as u32;
        let weights = [0; KINDS];
        let mut this = Self { random, weights, on, wishes, spoils, operations, restarts, seats, besides };
        this.drift();
        this
    }

    /// Other weights from here on.
    fn drift(&mut self) {
        const USUAL: [u32; KINDS] = [40, 90, 60, 40, 80, 30, 100, 60, 70, 40, 1, 8, 3, 3, 20, 60];
        for ((weight, usual), on) in self.weights.iter_mut().zip(USUAL).zip(self.on) {
            let factor = [1, 2, 4, 8, 16][self.random.below(5) as usize];
            *weight = if on { usual * factor } else { 0 };
        }
        if self.restarts {
            // Operators replace the server, too.
            self.weights[12] *= 3;
        }
    }

    fn seat(&mut self) -> u8 {
        self.random.below(self.seats) as u8
    }

    fn next(&mut self) -> Step {
        if let Some(step) = self.besides.as_mut().and_then(|besides| besides.next(self.seats)) {
            return step;
        }
        let all = self.weights.iter().sum::<u32>().max(1);
        let mut at = self.random.below(all);
        let mut kind = 0;
        while kind + 1 < KINDS && at >= self.weights[kind] {
            at -= self.weights[kind];
            kind += 1;
        }
        let byte = self.random.next();
        let (a, b) = (byte as u8, (byte >> 8) as u8);
        match kind {
            0 => Step::Control,
            1 => Step::Worker(a % 2),
            2 => Step::Deliver(a % 2),
            3 => Step::Hear(a % 2),
            4 => Step::Engine(a % 2, [1, 1, 2, 5, 64][usize::from(b) % 5]),
            5 => Step::Time([1000, 10_000, 1_000_000, 50_000_000, 1_000_000_000][usize::from(a) % 5]),
            6 => self.ask(byte),
            7 => Step::Kick(self.seat(), b % 3),
            8 => Step::Reap(self.seat(), b % 3),
            9 => Step::Talk(self.seat()),
            10 => Step::Settle,
            11 => Step::Want(self.seat(), self.wish(a, b)),
            12 => Step::Operate(self.operation(a, b)),
            13 => Step::Spoil(self.spoil(byte)),
            15 => Step::Storage(a, b),
            _ if a & 1 == 0 => {
                Step::Scribble { seat: self.seat(), at: (byte >> 16) as u16, value: self.value(byte) }
            }
            _ => {
                let value = self.random.next();
                Step::Say {
                    seat: self.seat(),
                    kind: [5, 9, 10, 11, 12, 13, 18, 24, 25, 31, 32, 34, 37, 37, 38, 2, 3, b]
                        [usize::from(b) % 18],
                    value,
                }
            }
        }
    }

    fn value(&mut self, byte: u64) -> u32 {
        match byte >> 40 & 7 {
            0..3 => (byte >> 48) as u32 & 0x3f,
            3 | 4 => 1 << (byte >> 48 & 31),
            5 => 0x10_0000 + ((byte >> 48) as u32 & 0x7fff),
            _ => (byte >> 32) as u32,
        }
    }

    fn ask(&mut self, byte: u64) -> Step {
        let kinds = [
            Kind::Read,
            Kind::Read,
            Kind::Read,
            Kind::Write,
            Kind::Write,
            Kind::Write,
            Kind::Write,
            Kind::Flush,
            Kind::Zeroes,
            Kind::Discard,
            Kind::Id,
        ];
        let kind = kinds[(byte >> 8 & 0xff) as usize % kinds.len()];
        // Few sectors, so that requests meet.
        let sector = match byte >> 16 & 7 {
            0 => self.random.below(700) as u16,
            1 => 0,
            2 | 3 => self.random.below(8) as u16 * 8,
            _ => self.random.below(48) as u16,
        };
        let sectors = match byte >> 20 & 3 {
            0 => self.random.below(32) as u8,
            1 => 7,
            _ => self.random.below(4) as u8,
        };
        let layout =
            if byte >> 24 & 1 == 0 { (self.random.next() as u32) & 0x71 } else { self.random.next() as u32 };
        Step::Ask { seat: self.seat(), queue: (byte >> 28) as u8 % 3, kind, sector, sectors, layout }
    }

    fn wish(&mut self, a: u8, b: u8) -> Wish {
        let all = [
            Wish::Connect,
            Wish::Connect,
            Wish::Add(b),
            Wish::Add(b),
            Wish::Remove(b),
            Wish::Table(b),
            Wish::Stop(b),
            Wish::Start(b),
            Wish::Disable(b),
            Wish::Reset,
            Wish::WriteBack(b & 1 == 0),
            Wish::Owner,
            Wish::Vanish,
            Wish::Reconnect,
        ];
        let wish = all[usize::from(a) % all.len()];
        // Some of them are not wanted in this run.
        let off =
            self.wishes >> (usize::from(a) % all.len()) & 1 == 1 || wish == Wish::Reconnect && !self.restarts;
        if off && !matches!(wish, Wish::Connect) { Wish::Connect } else { wish }
    }

    fn operation(&mut self, a: u8, b: u8) -> Operation {
        let seat = self.seat();
        match a % 16 {
            0 | 1 | 15 if self.restarts && self.operations & 4 == 4 && b & 1 == 0 => {
                Operation::Upgrade(b >> 1)
            }
            0 | 1 | 15 if self.restarts && self.operations & 8 == 8 => Operation::Kill,
            0..4 => Operation::Create(seat),
            4 => Operation::End(seat),
            5 | 6 => Operation::Delegate(b & 7, b >> 3),
            7..10 => Operation::CreateAt(seat, b),
            10 => Operation::EndFactory(b),
            11 | 12 if self.operations & 1 == 1 => Operation::Limit(seat, b),
            13 if self.operations & 2 == 2 => Operation::Drain(b),
            14 if self.operations & 2 == 2 => Operation::Resume(if b & 1 == 0 { 0 } else { b }),
            _ => Operation::Create(seat),
        }
    }

    fn spoil(&mut self, byte: u64) -> Spoil {
        let (a, b, c) = ((byte >> 16) as u8 & 1, (byte >> 24) as u8, (byte >> 32) as u8);
        let which = (byte >> 40) as u32 % 28;
        let off = self.spoils >> which & 1 == 1;
        match which {
            12 | 13 if !off => Spoil::Forge(a, b),
            14 if !off => Spoil::Fatal(a),
            15 if !off => Spoil::Internal(a),
            16 if !off => Spoil::BusError(a),
            17 | 18 if !off => Spoil::Power(a),
            19 if !off && b < 64 => Spoil::Vanish(a),
            20 if !off && b < 64 => Spoil::Remove(a),
            21 if !off => Spoil::Resize(b, c),
            22 if !off => Spoil::Maps(a, b % 4),
            23 if !off && b < 32 => Spoil::Unprovable(a),
            24 if !off && b < 64 => Spoil::Another(a),
            25 if !off => Spoil::Freeze(b),
            26 if !off => Spoil::Fail(b, c, (byte >> 48) as u8),
            10 | 11 | 27 => Spoil::Heal(a),
            _ => Spoil::Rule(a, b, c),
        }
    }
}

/// Steps of a run whose bytes somebody chose.
const STEPS_MAX: usize = 2000;

/// How many runs of a thousand have servers that are upgraded and killed, and clients that keep what is in flight and connect again.
const RESTARTS: u32 = 400;

/// Runs a world by a seed, so many steps.
pub fn run_seed(seed: u64, steps: usize) -> Run {
    // Chosen by itself, so that all else is the same whether it is so or is asked for.
    let restarts = Random::new(!seed).chance(RESTARTS);
    run_by(Random::new(seed), steps, restarts)
}

/// The same, and servers are replaced in no case.
pub fn run_without_restarts(seed: u64, steps: usize) -> Run {
    run_by(Random::new(seed), steps, false)
}

/// The same, and servers are replaced in any case.
pub fn run_restarting(seed: u64, steps: usize) -> Run {
    run_by(Random::new(seed), steps, true)
}

/// Runs a world by bytes that somebody chose: all choices come from there, and the steps end with them.
pub fn run_bytes(bytes: &[u8]) -> Run {
    run_by(Random::of_bytes(bytes), STEPS_MAX, true)
}

fn run_by(mut random: Random, steps: usize, restarts: bool) -> Run {
    let mut aside = random.aside();
    let mut setup = Setup::random(&mut random);
    if !restarts {
        setup.add_besides(&mut aside);
        setup.store = false;
        setup.seats.iter_mut().for_each(|place| place.inflight = false);
    }
    let mut chooser = Chooser::new(random, &setup, restarts, aside);
    let mut begin = vec![Step::Settle];
    for seat in 0..setup.seats.len() as u8 {
        begin.extend([
            Step::Operate(Operation::Create(seat)),
            Step::Want(seat, Wish::Connect),
            Step::Chat(seat),
        ]);
    }
    let mut begin = begin.into_iter();
    let mut count = 0;
    run(setup, || {
        count += 1;
        if count > steps || chooser.random.is_over() {
            return None;
        }
        if count.is_multiple_of(128) {
            chooser.drift();
        }
        Some(begin.next().unwrap_or_else(|| chooser.next()))
    })
}

/// Runs a world through a list of steps.
pub fn run_steps(setup: &Setup, steps: &[Step]) -> Run {
    let mut steps = steps.iter().copied();
    run(setup.clone(), || steps.next())
}

fn run(setup: Setup, mut next: impl FnMut() -> Option<Step>) -> Run {
    let mut run =
        Run { setup: setup.clone(), steps: Vec::new(), taken: 0, answered: 0, judged: 0, finding: None };
    let Some(mut world) = World::new(setup) else {
        run.finding = Some(Finding { judge: Judge::Itself, what: "there is no such world".into() });
        return run;
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        while let Some(step) = next() {
            run.steps.push(step);
            world.step(&step);
            run.finding = world.finding();
            if run.finding.is_some() {
                break;
            }
        }
        if run.finding.is_none() {
            world.finish();
            run.finding = world.finding();
        }
        run.taken = world.seq;
        run.answered = world.done;
        run.judged = world.court().buses.iter().map(|bus| bus.judged).sum();
    }));
    if let Err(panic) = panicked {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into()));
        run.finding =
            Some(Finding { judge: Judge::Itself, what: format!("a panic: {}", what.unwrap_or_default()) });
        std::mem::forget(world);
    }
    run
}
