//! The end of a run: faults are over, everything comes to rest, everything is taken back. What does not is a finding.

use std::time::Duration;

use crate::judge::Judge;
use crate::seat::Phase;
use crate::step::{Operation, Spoil, Step};
use crate::world::{CONTROLLERS, World};

/// How long requests may take to end in all, when everything is over that was wrong.
const PATIENCE: Duration = Duration::from_secs(1500);

impl World {
    /// A client says all that it has to say.
    pub(crate) fn chat(&mut self, at: usize) -> bool {
        let mut any = false;
        for _ in 0..200 {
            let open = |w: &Self| {
                w.seats
                    .get(at)
                    .and_then(|s| s.conn.as_ref())
                    .is_some_and(|c| c.waiting.is_some() || !c.todo.is_empty())
            };
            if !open(self) || self.finding().is_some() {
                break;
            }
            let said = self.talk(at);
            any |= said;
            if !said {
                if !self.is_busy() {
                    break;
                }
                self.settle();
            }
        }
        any
    }

    /// Lets everything come to rest, and takes everything back.
    pub(crate) fn finish(&mut self) {
        for at in 0..CONTROLLERS {
            self.heal(at);
            self.machines[at].knobs().maps_left = None;
        }
        self.rest("an upgrade", |w| w.frozen.is_none() && w.before.is_empty());
        self.end_drains();
        let (begun, takes) = (self.now, self.all_takes());
        self.rest("what was asked", |w| w.is_at_rest());
        if let Some(takes) = takes.filter(|takes| (self.now - begun).as_nanos() > u128::from(*takes)) {
            let took = self.now - begun;
            self.find(Judge::Life, || format!("what was asked took {took:?}, and {takes} ns are enough"));
        }
        self.read_back();
        if self.setup.cache {
            // What was not made durable may be gone; nothing else is.
            for machine in 0..CONTROLLERS as u8 {
                self.step(&Step::Spoil(Spoil::Power(machine)));
            }
            self.rest("power that came back", |w| w.is_at_rest());
            self.read_back();
        }
        self.look_at_canaries();
        if self.finding().is_some() {
            return;
        }
        for seat in 0..self.seats.len() as u8 {
            self.step(&Step::Operate(Operation::End(seat)));
        }
        for _ in 0..self.factories.len() {
            self.step(&Step::Operate(Operation::EndFactory(0)));
        }
        self.rest("the end of all sessions", |w| {
            let idle = |at: usize| w.court().in_flight(at) == 0 || w.keeps;
            w.control.sessions().next().is_none() && (0..CONTROLLERS).all(idle)
        });
        if self.finding().is_some() {
            return;
        }
        self.nothing_is_left();
        self.control.shut_down(self.now);
        self.control_awake = true;
        self.rest("the shutdown", |w| w.down);
        let (count, last) = (self.control.anomalies().count(), self.control.anomalies().last());
        if count > 0 {
            self.find(Judge::Itself, || format!("{count} times something that cannot happen: {last:?}"));
        }
    }

    /// Every honest driver reads where it wrote most.
    fn read_back(&mut self) {
        for seat in 0..self.seats.len() {
            if self.seats[seat].place.hostile {
                continue;
            }
            for part in 0..5 {
                let (kind, sector) = (crate::driver::Kind::Read, part * 32);
                let seat = seat as u8;
                self.step(&Step::Ask { seat, queue: 0, kind, sector, sectors: 31, layout: 0 });
                self.step(&Step::Kick(seat, 0));
            }
        }
        self.rest("what was read back", |w| w.is_at_rest());
    }

    fn nothing_is_left(&mut self) {
        if let Some(at) = self.seats.iter().position(|s| s.phase != Phase::Empty || s.key.is_some()) {
            self.find(Judge::Life, || {
                format!("all sessions have ended, and that of seat {at} was not said to have")
            });
        }
        let catalogue = self.control.catalogue();
        let factories = catalogue.factories().count();
        if factories > 0 {
            self.find(Judge::Life, || format!("all factories were taken back, and {factories} are there"));
        }
        for at in 0..CONTROLLERS {
            let (reach, flights, off) = {
                let court = self.court();
                (court.buses[at].reach, court.flights(at), court.buses[at].off)
            };
            if (reach > 0 || !flights.is_empty()) && !off && !self.keeps {
                self.find(Judge::Life, || {
                    format!("all sessions have ended: controller {at} reaches {reach} bytes of theirs, and has {flights:?}")
                });
            }
        }
    }

    /// Whether all that honest clients asked for is answered.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.seats.iter().all(|seat| {
            let (talked, answered) = (seat.has_been_heard(), seat.is_answered());
            let waits = seat.driver.as_ref().is_some_and(|driver| driver.waits);
            let session = seat.key.and_then(|key| self.control.session(key));
            let settled = !matches!(seat.phase, Phase::Clearing | Phase::Ending)
                && session.is_none_or(|session| !session.is_leaving())
                && (!waits || seat.phase == Phase::Empty);
            settled && (seat.place.hostile || talked && answered)
        })
    }

    pub(crate) fn rest(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = self.now + PATIENCE;
        while self.finding().is_none() {
            if !self.settle() {
                let state = self.describe();
                return self.find(Judge::Life, || format!("it goes on and on, waiting for {what}: {state}"));
            }
            for at in 0..self.seats.len() {
                if self.seats[at].driver.as_ref().is_some_and(|driver| driver.waits) {
                    self.connect(at);
                }
                if !self.seats[at].place.hostile {
                    self.chat(at);
                }
                for queue in 0..3 {
                    self.step(&Step::Reap(at as u8, queue));
                    self.step(&Step::Kick(at as u8, queue));
                }
            }
            if self.is_busy() {
                continue;
            }
            if so(self) {
                return;
            }
            if self.now >= end {
                let state = self.describe();
                return self.find(Judge::Life, || format!("{what} does not come in {PATIENCE:?}: {state}"));
            }
            self.step(&Step::Time(1_000_000_000));
        }
    }

    /// What holds things up, in short.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (at, seat) in self.seats.iter().enumerate() {
            let asked: Vec<_> = seat
                .driver
                .iter()
                .flat_map(|d| &d.queues)
                .map(|q| (q.running, q.broken, q.avail, q.used, q.slots.iter().flatten().count()))
                .collect();
            let conn = seat.conn.as_ref().map(|c| (c.waiting, c.todo.len()));
            text += &format!(
                "seat {at} {:?} lost={} hostile={} {conn:?} {asked:?}; ",
                seat.phase, seat.lost, seat.place.hostile
            );
        }
        let due = |t: Option<nvme_platform::Time>| t.map(|t| t - self.now);
        text += &format!("control {} {:?}; ", self.control_awake, due(self.control.next_deadline()));
        for hand in &self.hands {
            text += &format!(
                "worker {} {:?} {} {}; ",
                hand.awake,
                due(hand.wake_at),
                hand.to.len(),
                hand.from.len()
            );
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let court = self.court();
            let (flights, rung) = (court.in_flight(at), court.buses[at].rung);
            text += &format!("machine {:?} {flights} {rung}; ", due(machine.again));
        }
        for (name, _, state) in self.control.controllers() {
            text += &format!("{name} {state:?}; ");
        }
        text
    }
}
