//! What operators do: sessions and factories, made and taken back.

use nvme_core::server::message::SessionKey;
use nvme_policy::{Ceiling, FactoryRequest, SessionRequest, Trusted};
use nvme_session::factory::FactoryId;

use crate::drains::Held;
use crate::judge::court::Holding;
use crate::judge::model::TABLE;
use crate::judge::rate::{Meter, number};
use crate::judge::titles::Title;
use crate::judge::{Finding, Judge};
use crate::seat::{Device, Phase};
use crate::step::Operation;
use crate::world::{World, disk_of};

/// A factory that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) id: FactoryId,
    /// Its place among all that were made, and its maker's.
    pub(crate) number: u64,
    pub(crate) parent: Option<u64>,
    /// What it was asked for with: devices, and whether it may write.
    devices: Vec<&'static str>,
    read_only: bool,
    sessions: u64,
    /// All that it was asked for with.
    pub(crate) words: &'static [&'static str],
    /// How much all its sessions may do together.
    pub(crate) meter: Meter,
    /// It was taken back.
    pub(crate) ended: bool,
}

const KINDS: [&[&str]; 13] = [
    &["device=d0:n3", "device=d0:n1", "factories=1"],
    &["device=d0:n1", "factories=2", "sessions=2"],
    &["device=d0:n1:1", "factories=1"],
    &["device=d0:n1:2", "device=d0:n2", "read-only", "factories=1"],
    &["device=d0:n1", "read-only", "sessions=1"],
    &["device=d0:n2", "device=d1:n1", "factories=3"],
    &["device=d1:n1", "sessions=1", "factories=1"],
    &["device=d1:n2", "read-only"],
    &["device=d1:n2", "device=d0:n1:1", "sessions=3"],
    &["device=d0:n1", "factories=2", "iops=100", "iops-all=150"],
    &["device=d0:n2", "device=d1:n2", "factories=1", "iops-all=20"],
    &["device=d1:n1", "device=d1:n2", "bytes-all=200K", "factories=1"],
    &["device=d0:n1", "device=d0:n2", "factories=1", "bytes=100K", "bytes-all=1M"],
];

impl World {
    pub(crate) fn operate(&mut self, what: Operation) -> bool {
        if self.frozen.is_some() && what != Operation::Kill {
            return false;
        }
        self.control_awake = true;
        let done = match what {
            Operation::Create(seat) => self.create(usize::from(seat), None),
            Operation::End(seat) => self.end(usize::from(seat)),
            Operation::Delegate(at, kind) => self.delegate(at, kind),
            Operation::CreateAt(seat, at) => {
                let Some(made) = self.pick(at) else { return false };
                self.create(usize::from(seat), Some(made))
            }
            Operation::EndFactory(at) => self.end_factory(at),
            Operation::Limit(seat, which) => self.limit(usize::from(seat), which),
            Operation::Drain(which) => self.drain(which),
            Operation::Resume(which) => self.resume(which),
            Operation::Upgrade(how) => self.upgrade(how),
            Operation::Kill => self.kill(),
            Operation::Misspell(seat, which) => self.misspell(usize::from(seat), which),
        };
        self.after_control();
        done
    }

    fn pick(&self, at: u8) -> Option<Made> {
        let living = self.factories.iter().filter(|f| !f.ended);
        let all: Vec<&Made> = living.collect();
        all.get(usize::from(at) % all.len().max(1)).map(|made| (*made).clone())
    }

    pub(crate) fn words(&self, at: usize) -> Vec<&'static str> {
        self.seats[at].place.words.clone()
    }

    fn create(&mut self, at: usize, factory: Option<Made>) -> bool {
        if self.seats.get(at).is_none_or(|s| s.phase != Phase::Empty || s.key.is_some()) {
            return false;
        }
        let asked = self.spelled(&self.words(at));
        let asked = SessionRequest::from_words(&asked, &self.setup.besides.names());
        let fixed = at == 0 && self.setup.besides.fixed && factory.is_none();
        let created = match &factory {
            None => {
                let Ok(policy) = asked.and_then(|asked| Ceiling::SERVER.admit(&asked)) else { return false };
                self.control.create(&policy, fixed)
            }
            Some(made) => {
                let Ok(asked) = asked else { return false };
                self.control.create_at(made.id, &asked)
            }
        };
        let key = match created {
            Ok(key) => key,
            Err(why) => {
                if fixed {
                    self.first_was_refused(&why);
                } else if factory.is_none() {
                    self.was_refused(&self.words(at), &why);
                }
                return false;
            }
        };
        if let Some(made) = &factory {
            self.within(at, made);
        }
        let seat = &mut self.seats[at];
        seat.key = Some(key);
        seat.phase = Phase::Free;
        seat.lost = false;
        seat.factory = factory.map(|f| f.number);
        let last = seat.last;
        self.note_grant(at, key);
        self.goes_on_or_not(at, last);
        self.seats[at].meter = self.meter_of(at, self.seats[at].factory);
        let device = self.seats[at].device;
        if device.is_some_and(|d| self.is_drained(d.controller, &d.holding)) {
            if self.control.is_unsettled(key) {
                // What a server before had begun there is to end first.
                self.seats[at].held = Held::Finishes;
                return true;
            }
            // It never had anything in flight.
            self.seats[at].held = Held::Quiet;
            self.court().hold(key.0);
        }
        true
    }

    /// What is minted is within its factory, and all those above it.
    fn within(&self, at: usize, made: &Made) {
        let words = self.words(at);
        let (device, read_only) = (words[0], words.contains(&"read-only"));
        let mut above = Some(made.number);
        while let Some(number) = above {
            let Some(factory) = self.factories.iter().find(|f| f.number == number) else { return };
            let holds = |held: &str| {
                device == held || device.strip_prefix(held).is_some_and(|rest| rest.starts_with(':'))
            };
            let by_name = |held: &str| {
                let (disk, part) = Self::numbered(held)?;
                let of = |t: &&Title| t.disk == disk && part.is_none_or(|part| t.number == part);
                Some(self.called(device).iter().any(of))
            };
            let holds = |held: &str| holds(held) || by_name(held) == Some(true);
            let right = factory.devices.iter().any(|held| holds(held)) && (read_only || !factory.read_only);
            if !right || factory.ended {
                self.find(Judge::Authority, || format!("{words:?} was minted at a factory of {factory:?}"));
            }
            let below =
                self.seats.iter().filter(|s| s.factory.is_some_and(|f| self.is_below(f, number))).count();
            if below as u64 + 1 > factory.sessions {
                self.find(Judge::Authority, || format!("{} sessions at {factory:?}", below + 1));
            }
            above = factory.parent;
        }
    }

    /// A factory, and those above it.
    pub(crate) fn above(&self, factory: Option<u64>) -> impl Iterator<Item = &Made> {
        let find = |number: u64| self.factories.iter().find(move |f| f.number == number);
        std::iter::successors(factory.and_then(find), move |f| f.parent.and_then(find))
    }

    fn is_below(&self, number: u64, top: u64) -> bool {
        let mut at = Some(number);
        while let Some(number) = at {
            if number == top {
                return true;
            }
            at = self.factories.iter().find(|f| f.number == number).and_then(|f| f.parent);
        }
        false
    }

    /// Books what a session holds: as the server says, and held against what the device's name can mean.
    pub(crate) fn note_grant(&mut self, at: usize, key: SessionKey) {
        let Some(session) = self.control.session(key) else { return };
        let grant = session.minted().grant();
        let extent = grant.extent();
        let (controller, nsid) = (usize::from(extent.namespace().controller), extent.namespace().nsid);
        let place = self.court().places.get(&(controller, nsid)).copied();
        let Some(place) = place else {
            return self
                .find(Judge::Authority, || format!("seat {at} was granted a namespace that is not there"));
        };
        let scale = place.shift - 9;
        let holding = Holding {
            disk: place.disk,
            first: extent.first() << scale,
            sectors: extent.blocks() << scale,
            writes: grant.access() == nvme_policy::Access::ReadWrite,
        };
        let words = self.words(at);
        if let Err(what) = self.may_mean(&words, &holding, self.seats[at].factory.is_some()) {
            self.find(Judge::Authority, || format!("seat {at}: {words:?} was granted {holding:?}: {what}"));
        }
        self.court().grant(key.0, holding);
        self.leaves_the_first_its_own(at, controller, &holding);
        let device = Device { controller, holding, block: 1 << scale };
        let seat = &mut self.seats[at];
        (seat.device, seat.last) = (Some(device), Some(device));
    }

    /// Whether a name can mean these sectors, by the tables that the disk may hold.
    fn may_mean(&self, words: &[&str], holding: &Holding, factory: bool) -> Result<(), String> {
        if holding.writes == words.contains(&"read-only") {
            return Err("another access than was asked for".into());
        }
        if let Some(said) = self.titled(words, holding, factory) {
            return said;
        }
        let name = words[0].trim_start_matches("device=");
        let mut parts = name.split(':');
        let controller = parts.next().and_then(|p| p[1..].parse::<usize>().ok());
        let nsid = parts.next().and_then(|p| p[1..].parse::<u32>().ok());
        let number = parts.next().and_then(|p| p.parse::<u32>().ok());
        let disk = controller.zip(nsid).and_then(|(controller, nsid)| disk_of(controller, nsid));
        if disk != Some(holding.disk) {
            return Err("another disk".into());
        }
        let size = self.disks[holding.disk].sectors();
        let Some(number) = number else {
            let all = holding.first == 0 && holding.sectors <= size;
            return if all { Ok(()) } else { Err("not the whole of it".into()) };
        };
        let here = (holding.first, holding.sectors);
        // A partition that was held through a rewrite keeps its name and its place.
        let tables = 0..4_u64;
        let of = |table: u64| crate::tables::partition(table, number) == Some(here);
        let disk = &self.disks[holding.disk];
        let held = !self.factories.is_empty()
            || self
                .seats
                .iter()
                .filter_map(|s| s.device)
                .any(|d| d.holding.disk == holding.disk && (d.holding.first, d.holding.sectors) == here);
        let seen = |table: &u64| held || disk.is_unknown(0) || disk.candidates(0).contains(&(TABLE + table));
        if tables.filter(seen).any(of) { Ok(()) } else { Err("no table says so".into()) }
    }

    pub(crate) fn end(&mut self, at: usize) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let Some(key) = seat.key.filter(|_| seat.phase != Phase::Ending) else { return false };
        seat.excuse();
        seat.conn = None;
        seat.left.extend(seat.driver.take());
        seat.phase = Phase::Ending;
        self.control.end(key);
        true
    }

    fn delegate(&mut self, at: u8, kind: u8) -> bool {
        let parent = if at == 0 { None } else { self.pick(at) };
        let words = KINDS[usize::from(kind) % KINDS.len()];
        let Ok(asked) = FactoryRequest::from_words(&self.spelled(words), &Trusted::NONE) else {
            return false;
        };
        let id = parent.as_ref().map_or(FactoryId::SERVER, |p| p.id);
        let Ok(id) = self.control.delegate(id, &asked) else { return false };
        let sessions = words.iter().find_map(|w| w.strip_prefix("sessions=")?.parse().ok());
        let made = Made {
            id,
            number: self.factories.len() as u64,
            parent: parent.as_ref().map(|p| p.number),
            devices: words.iter().copied().filter(|w| w.starts_with("device=")).collect(),
            read_only: words.contains(&"read-only"),
            sessions: sessions.unwrap_or(u64::MAX),
            ended: false,
            words,
            meter: Meter::new(number(words, "iops-all"), number(words, "bytes-all"), self.now.as_nanos()),
        };
        if let Some(parent) = parent {
            let holds = |device: &&str| {
                let inside = |held: &&str| {
                    *device == *held || device.strip_prefix(*held).is_some_and(|rest| rest.starts_with(':'))
                };
                parent.devices.iter().any(inside)
            };
            if !made.devices.iter().all(holds) || parent.read_only && !made.read_only {
                self.find(Judge::Authority, || format!("{made:?} was made by {parent:?}"));
            }
        }
        self.factories.push(made);
        true
    }

    fn end_factory(&mut self, at: u8) -> bool {
        let Some(made) = self.pick(at) else { return false };
        let below: Vec<u64> =
            self.factories.iter().map(|f| f.number).filter(|n| self.is_below(*n, made.number)).collect();
        for factory in self.factories.iter_mut().filter(|f| below.contains(&f.number)) {
            factory.ended = true;
        }
        for seat in self.seats.iter_mut().filter(|s| s.factory.is_some_and(|f| below.contains(&f))) {
            seat.excuse();
            seat.conn = None;
            seat.left.extend(seat.driver.take());
            seat.phase = Phase::Ending;
        }
        self.control.end_factory(made.id);
        true
    }

    pub(crate) fn factory_ended(&mut self, id: FactoryId) {
        let Some(made) = self.factories.iter().find(|f| f.id == id).cloned() else { return };
        let finding = |what: String| Finding { judge: Judge::Life, what };
        if let Some(at) = self.seats.iter().position(|s| s.factory == Some(made.number)) {
            let finding =
                finding(format!("factory {} has ended, and the session of seat {at} has not", made.number));
            self.court().finding.get_or_insert(finding);
        }
    }
}
