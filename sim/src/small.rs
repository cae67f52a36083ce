//! Exhaustive in the small: two sessions with a request or two, memory that is taken back, something that ends; all interleavings of what the roles, the clients and the
//! device do.
//!
//! A run is a list of steps that is taken from the beginning each time, depth first. Two steps of which neither touches what the other does lead to one state, whichever
//! comes first; so each *object* (control, a worker, a channel's message, a queue of the controller, a driver's memory, …) has a number that stands for everything that ever happened to
//! it, and a state is all of these. A state that was seen is not gone on from. What is independent is decided narrowly: where it is not certain, it is not independent.
//!
//! Of two steps that are independent of each other one order is tried, and the other is known to lead to the same state. What a driver finds in its rings, and what a client is
//! answered, it takes at once: nobody else can tell. Likewise it says at once what its server only notes ([`only_notes`]).
//!
//! A world is *fine* or *coarse*. In a fine one each message and each pass is a step. In a coarse one a role that has its turn takes all messages that there are and does what it can
//! before it waits again, as its thread does when nobody is faster; what others do comes between turns, in any order. A turn of a worker that found nothing to do
//! is none: the state is what it was. Who is awake, and who was kicked, is a part of the state as it is, whatever led to it.
//!
//! Time goes by when nobody can do anything. Where everything has come to rest, everything is ended and judged, as at the end of any run.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::besides::Besides;
use crate::driver::Kind;
use crate::judge::{Finding, Judge};
use crate::messages::Message;
use crate::seat::{Conn, Phase, Stage};
use crate::setup::{Place, Setup};
use crate::step::{Operation, Spoil, Step, Wish};
use crate::world::World;

/// Steps of one way: none comes near.
const DEPTH_MAX: usize = 300;

/// A small world, and what happens in it.
#[derive(Clone)]
pub struct Small {
    /// What it is about.
    pub name: &'static str,
    /// Roles do all that they can when it is their turn.
    pub coarse: bool,
    setup: Setup,
    /// What each actor does, in its order; the actors' steps mix in any way.
    acts: Vec<Vec<Step>>,
}

/// What was seen of one.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Different states.
    pub states: u64,
    /// Steps between them.
    pub steps: u64,
    /// States in which everything had come to rest.
    pub ends: u64,
    /// The longest way to one.
    pub longest: usize,
    /// There are more states than it was to look at.
    pub cut: bool,
    /// The first broken promise, and the way to it.
    pub finding: Option<(Finding, Vec<Step>)>,
}

/// A thing that steps touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Object {
    Control,
    ControlAwake,
    Worker,
    WorkerAwake,
    /// A seat's client.
    Client(usize),
    /// Its driver's memory.
    Memory(usize),
    /// A controller: registers, admin queue, rules.
    Machine(usize),
    /// An I/O queue of the first controller.
    Queue(u16),
    Time,
}

const QUEUES: u16 = 4;
const SEATS: usize = 2;

fn objects() -> impl Iterator<Item = Object> {
    use Object as O;
    let seats = (0..SEATS).flat_map(|at| [O::Client(at), O::Memory(at)]);
    [O::Control, O::ControlAwake, O::Worker, O::WorkerAwake, O::Machine(0), O::Machine(1), O::Time]
        .into_iter()
        .chain(seats)
        .chain((1..=QUEUES).map(O::Queue))
}

/// A world on its way, with what happened to each object.
struct Walk<'a> {
    small: &'a Small,
    world: World,
    /// How far each actor is.
    next: Vec<usize>,
    marks: Vec<u64>,
    /// The messages on their way, as marks.
    to: VecDeque<u64>,
    from: VecDeque<u64>,
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Whether what a client says next is only noted by its server, which looks at that when the ring is started. No other step reads or changes it, but
/// for the end of the connection, which drops it; and control has nothing to do after it.
fn only_notes(conn: &Conn) -> bool {
    let still = |ring: u8| {
        let ring = conn.rings.get(&ring.into());
        ring.is_none_or(|ring| ring.stage == Stage::Stopped && !ring.enabled)
    };
    let Some(
        Message::Num(ring)
        | Message::Addresses(ring)
        | Message::Base(ring)
        | Message::Call(ring)
        | Message::Kick(ring),
    ) = conn.todo.front()
    else {
        return false;
    };
    conn.waiting.is_none() && conn.rest.is_none() && !conn.machine.rings_start_enabled() && still(*ring)
}

/// A step that may be possible: an actor's next, or a role's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    Actor(usize),
    Role(Step),
}

impl Small {
    /// Its world.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What there is before it begins: each seat has its session, and its client is connected and served.
    fn prologue(&self) -> Vec<Step> {
        let mut steps = vec![Step::Settle];
        for seat in 0..self.setup.seats.len() as u8 {
            steps.extend([Step::Operate(Operation::Create(seat)), Step::Settle]);
            steps.extend([Step::Want(seat, Wish::Connect), Step::Chat(seat), Step::Settle]);
        }
        steps
    }
}

impl<'a> Walk<'a> {
    fn new(small: &'a Small) -> Option<Self> {
        let mut world = World::new(small.setup.clone())?;
        small.prologue().iter().for_each(|step| {
            world.step(step);
        });
        let marks = objects().map(|_| 0).collect();
        let next = vec![0; small.acts.len()];
        Some(Self { small, world, next, marks, to: VecDeque::new(), from: VecDeque::new() })
    }

    fn choices(&self) -> Vec<Choice> {
        let actors = (0..self.small.acts.len()).map(Choice::Actor);
        let mut roles = if self.small.coarse {
            vec![Step::Poll, Step::Turn(0)]
        } else {
            vec![Step::Control, Step::Deliver(0), Step::Worker(0), Step::Hear(0)]
        };
        roles.extend((1..=QUEUES as u8).map(|queue| Step::Answer(0, queue)));
        roles.extend((0..SEATS as u8).map(Step::Talk));
        actors.chain(roles.into_iter().map(Choice::Role)).collect()
    }

    fn step_of(&self, choice: Choice) -> Option<Step> {
        match choice {
            Choice::Actor(at) => self.small.acts[at].get(self.next[at]).copied(),
            Choice::Role(step) => Some(step),
        }
    }

    /// What a step touches, whatever it does.
    fn touches(&self, step: &Step) -> Vec<Object> {
        use Object as O;
        let memories = (0..SEATS).map(O::Memory);
        match *step {
            Step::Control | Step::Poll => vec![O::Control, O::ControlAwake, O::Machine(0), O::Machine(1)],
            Step::Deliver(_) => vec![O::Worker, O::WorkerAwake],
            // It looks at all its queues and pairs.
            Step::Worker(_) | Step::Turn(_) => [O::Worker, O::WorkerAwake]
                .into_iter()
                .chain(memories)
                .chain((1..=QUEUES).map(O::Queue))
                .collect(),
            Step::Hear(_) => vec![O::Control, O::ControlAwake],
            Step::Answer(_, queue) => vec![O::Queue(queue.into())],
            Step::Talk(seat) => {
                let seat = usize::from(seat);
                vec![O::Client(seat), O::Memory(seat), O::Control]
            }
            Step::Reap(seat, _) | Step::Kick(seat, _) | Step::Ask { seat, .. } => {
                vec![O::Memory(usize::from(seat))]
            }
            Step::Want(seat, Wish::Vanish) => {
                let seat = usize::from(seat);
                vec![O::Client(seat), O::Memory(seat), O::Control]
            }
            Step::Want(seat, _) => vec![O::Client(usize::from(seat))],
            _ => objects().collect(),
        }
    }

    /// What drivers and clients find they take. Which of them did.
    fn look(&mut self) -> Vec<Object> {
        let mut touched = Vec::new();
        for at in 0..SEATS {
            let reaped = self.world.step(&Step::Reap(at as u8, 0));
            let seat = &self.world.seats[at];
            let answered = |c: &Conn| c.waiting.is_some() && !c.machine.outgoing().is_empty();
            let told = seat.conn.as_ref().is_some_and(answered) && self.world.step(&Step::Talk(at as u8));
            let (awake, mut notes) = (self.world.control_awake, false);
            while self.world.seats[at].conn.as_ref().is_some_and(only_notes)
                && self.world.step(&Step::Talk(at as u8))
            {
                // And the answer to it.
                notes = true;
                self.world.step(&Step::Talk(at as u8));
            }
            self.world.control_awake = awake;
            if reaped || told || notes {
                touched.extend([Object::Client(at), Object::Memory(at)]);
            }
        }
        touched
    }

    /// Takes a step, if there is something to be done. What it touched.
    fn take(&mut self, choice: Choice) -> Option<Vec<Object>> {
        use Object as O;
        let step = self.step_of(choice)?;
        let hand = &self.world.hands[0];
        let (to, from, awake) = (hand.to.len(), hand.from.len(), hand.awake);
        let control_awake = self.world.control_awake;
        if !self.world.step(&step) {
            return None;
        }
        if let Choice::Actor(at) = choice {
            self.next[at] += 1;
        }
        let mut touched = self.touches(&step);
        // What it took, what it sent, and whom it woke who slept.
        let (heard, said) = match step {
            Step::Deliver(_) => (1, 0),
            Step::Turn(_) => (to, 0),
            Step::Hear(_) => (0, 1),
            Step::Poll => (0, from),
            _ => (0, 0),
        };
        let taken: Vec<u64> = self.to.drain(..heard).chain(self.from.drain(..said)).collect();
        let hand = &self.world.hands[0];
        let (sent, told) = (hand.to.len() + heard - to, hand.from.len() + said - from);
        if hand.awake != awake || sent > 0 {
            touched.push(O::WorkerAwake);
        }
        if self.world.control_awake != control_awake || told > 0 {
            touched.push(O::ControlAwake);
        }
        let idle = matches!(step, Step::Turn(_)) && hand.idle;
        touched.extend(self.look());
        if idle {
            return Some(touched);
        }
        let of = |object: &O| objects().position(|o| o == *object).unwrap_or(0);
        let is_history = |object: &&O| !matches!(object, O::WorkerAwake | O::ControlAwake);
        let places: Vec<usize> = touched.iter().filter(is_history).map(of).collect();
        let before: Vec<u64> = places.iter().map(|at| self.marks[*at]).collect();
        let mark = hash((format!("{step:?}"), &places, before, taken));
        for at in places {
            self.marks[at] = mark;
        }
        self.to.extend((0..sent).map(|n| hash((mark, n))));
        self.from.extend((0..told).map(|n| hash((mark, n, "from"))));
        Some(touched)
    }

    fn state(&self) -> (u64, u64) {
        let World { hands, control_awake, seats, machines, .. } = &self.world;
        let due = hands.iter().map(|h| h.wake_at).chain(machines.iter().map(|m| m.again));
        let due: Vec<_> = due.map(|time| time.map(|time| time.as_nanos())).collect();
        let queues = seats.iter().filter_map(|seat| seat.driver.as_ref()).flat_map(|driver| &driver.queues);
        let kicked: Vec<bool> = queues.map(|queue| queue.kicked).collect();
        let now = (hands[0].awake, control_awake, due, kicked);
        let all = (&self.marks, &self.to, &self.from, &self.next, now);
        (hash(&all), hash((&all, 1)))
    }

    /// Whether all that was begun is over, where nobody can do anything. (Who has not done all that it would have may have lost its session.)
    fn is_over(&self) -> bool {
        let ends = |phase| matches!(phase, Phase::Clearing | Phase::Ending);
        !self.world.seats.iter().any(|seat| ends(seat.phase)) && self.world.is_at_rest()
    }
}

/// A step that was taken, and what it touched.
type Taken = (Choice, Vec<Object>);

/// A state on the way, and what was not tried there.
struct Node {
    choices: VecDeque<Choice>,
    /// Something could be done there.
    any: bool,
    /// What was tried there; and what leads from there to where another way has led.
    tried: Vec<Taken>,
}

impl Node {
    fn new(choices: Vec<Choice>, known: Vec<Taken>) -> Self {
        let new = |choice: &Choice| !known.iter().any(|(known, _)| known == choice);
        let choices = choices.into_iter().filter(new).collect();
        Self { choices, any: !known.is_empty(), tried: known }
    }

    /// What is known of where a step leads that touched this.
    fn known(&self, touched: &[Object]) -> Vec<Taken> {
        let apart = |(_, other): &&Taken| !other.iter().any(|object| touched.contains(object));
        self.tried.iter().filter(apart).cloned().collect()
    }
}

/// The search, at some state.
struct Search<'a> {
    small: &'a Small,
    most: u64,
    seen: Seen,
    states: HashSet<(u64, u64)>,
    way: Vec<Choice>,
    nodes: Vec<Node>,
}

/// Looks at all states of a small world, `most` of them at most.
pub fn exhaust(small: &Small, most: u64) -> Seen {
    let mut search = Search {
        small,
        most,
        seen: Seen::default(),
        states: HashSet::new(),
        way: Vec::new(),
        nodes: Vec::new(),
    };
    let finding = search.run();
    search.seen.states = search.states.len() as u64;
    search.seen.finding = finding.map(|finding| (finding, search.trace()));
    search.seen
}

impl<'a> Search<'a> {
    /// The steps of the way, from the beginning of the world.
    fn trace(&self) -> Vec<Step> {
        let mut next = vec![0; self.small.acts.len()];
        let mut steps = self.small.prologue();
        steps.extend(self.way.iter().filter_map(|choice| match choice {
            Choice::Actor(at) => {
                next[*at] += 1;
                self.small.acts[*at].get(next[*at] - 1).copied()
            }
            Choice::Role(step) => Some(*step),
        }));
        steps
    }

    /// The way again, in a new world.
    fn again(&self) -> Option<Walk<'a>> {
        let mut walk = Walk::new(self.small)?;
        self.way.iter().for_each(|choice| {
            walk.take(*choice);
        });
        Some(walk)
    }

    fn run(&mut self) -> Option<Finding> {
        let none = || Finding { judge: Judge::Itself, what: "there is no such world".into() };
        let Some(mut walk) = Walk::new(self.small) else { return Some(none()) };
        self.states.insert(walk.state());
        self.nodes.push(Node::new(walk.choices(), Vec::new()));
        // Whether the world is at the last node.
        let mut here = true;
        loop {
            let node = self.nodes.last_mut()?;
            let Some(choice) = node.choices.pop_front() else {
                // (Where nothing could be done, the world is still at it.)
                if !std::mem::replace(&mut node.any, true) {
                    if !walk.is_over() {
                        node.choices.push_back(Choice::Role(Step::Time(60_000_000_000)));
                        continue;
                    }
                    self.seen.ends += 1;
                    match catch_unwind(AssertUnwindSafe(|| walk.world.finish())) {
                        Ok(()) if walk.world.finding().is_none() => {}
                        Ok(()) => return walk.world.finding(),
                        Err(_) => {
                            std::mem::forget(walk);
                            return Some(panicked());
                        }
                    }
                }
                self.nodes.pop();
                self.way.pop()?;
                here = false;
                continue;
            };
            if !here {
                let Some(again) = self.again() else { return Some(none()) };
                (walk, here) = (again, true);
            }
            let touched = match catch_unwind(AssertUnwindSafe(|| walk.take(choice))) {
                Ok(None) => continue,
                Ok(Some(touched)) => touched,
                Err(_) => {
                    self.way.push(choice);
                    std::mem::forget(walk);
                    return Some(panicked());
                }
            };
            let known = self.nodes.last_mut().map(|node| {
                let known = node.known(&touched);
                node.any = true;
                node.tried.push((choice, touched));
                known
            });
            self.seen.steps += 1;
            self.way.push(choice);
            if let Some(finding) = walk.world.finding() {
                return Some(finding);
            }
            if self.way.len() >= DEPTH_MAX {
                return Some(Finding { judge: Judge::Life, what: format!("{DEPTH_MAX} steps, and no end") });
            }
            let room = (self.states.len() as u64) < self.most;
            self.seen.cut |= !room;
            if !room || !self.states.insert(walk.state()) {
                self.way.pop();
                here = false;
                continue;
            }
            self.seen.longest = self.seen.longest.max(self.way.len());
            self.nodes.push(Node::new(walk.choices(), known.unwrap_or_default()));
        }
    }
}

fn panicked() -> Finding {
    Finding { judge: Judge::Itself, what: "a panic".into() }
}

fn ask(seat: u8, kind: Kind, sector: u16, layout: u32) -> Step {
    Step::Ask { seat, queue: 0, kind, sector, sectors: 1, layout }
}

/// In the second region, so that it can be taken back under a request.
const APART: u32 = 5 << 4;

/// The small worlds that are looked at.
pub fn smalls() -> Vec<Small> {
    let place = |device: &'static str| Place {
        words: vec![device, "ds-max=4"],
        listens: false,
        hostile: false,
        sealed: false,
        queues: 1,
        declines: 0,
        inflight: false,
    };
    let setup = |pairs: u16, cache: bool| Setup {
        workers: 1,
        apart: [true, true],
        mqes: 7,
        mdts: 8,
        sgl: false,
        cache,
        pairs,
        slow: false,
        shared: false,
        faulty: true,
        store: false,
        seats: vec![place("device=d0:n1:1"), place("device=d0:n1:2")],
        besides: Besides::default(),
    };
    let one = |seat: u8, kind: Kind| vec![ask(seat, kind, 0, APART), Step::Kick(seat, 0)];
    let takes_back = vec![Step::Want(0, Wish::Remove(0))];
    let both = |more: Vec<Vec<Step>>| {
        let mut acts = vec![one(0, Kind::Write), one(1, Kind::Read)];
        acts.extend(more);
        acts
    };
    let alone = |more: Step| vec![one(0, Kind::Write), takes_back.clone(), vec![more]];
    let small = |name, pairs, acts| Small { name, coarse: false, setup: setup(pairs, false), acts };
    let fine = vec![
        small("a request each, memory of one taken back", 8, both(vec![takes_back.clone()])),
        small("the same on one queue pair", 1, both(vec![takes_back.clone()])),
        small(
            "a request, its memory taken back, and its session ended",
            8,
            alone(Step::Operate(Operation::End(0))),
        ),
        small(
            "a request, its memory taken back, the other session ended",
            8,
            alone(Step::Operate(Operation::End(1))),
        ),
        small(
            "a request, its memory taken back, the other device reset",
            8,
            alone(Step::Want(1, Wish::Reset)),
        ),
        small(
            "a request, its device reset, the other session ended",
            8,
            vec![
                one(0, Kind::Write),
                vec![Step::Want(0, Wish::Reset)],
                vec![Step::Operate(Operation::End(1))],
            ],
        ),
        small(
            "a request each, memory of one taken back, the other session ended",
            8,
            both(vec![takes_back.clone(), vec![Step::Operate(Operation::End(1))]]),
        ),
        small(
            "the same on one queue pair",
            1,
            both(vec![takes_back.clone(), vec![Step::Operate(Operation::End(1))]]),
        ),
        small(
            "a request each, memory of one taken back, and its session ended",
            8,
            both(vec![takes_back.clone(), vec![Step::Operate(Operation::End(0))]]),
        ),
        small(
            "a request each, memory of one taken back, the other client gone",
            1,
            both(vec![takes_back.clone(), vec![Step::Want(1, Wish::Vanish)]]),
        ),
        small(
            "a request each, one device reset, the other session ended",
            8,
            both(vec![vec![Step::Want(0, Wish::Reset)], vec![Step::Operate(Operation::End(1))]]),
        ),
        small(
            "a request each, memory of one taken back, the controller fails",
            8,
            both(vec![takes_back, vec![Step::Spoil(Spoil::Fatal(0))]]),
        ),
        small(
            "two requests of one session, one of which is answered late; its queue is stopped",
            8,
            vec![[one(0, Kind::Write), one(0, Kind::Read)].concat(), vec![Step::Want(0, Wish::Stop(0))]],
        ),
    ];
    let coarse = |small: &Small| Small { coarse: true, ..small.clone() };
    fine.iter().map(coarse).chain(fine.iter().cloned()).collect()
}
