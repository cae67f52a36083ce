//! What some worlds have besides: bounds of memory, dataspaces that are trusted, disks with labels, a client whose device is kept for it; and what becomes
//! of such things: memory that vanishes or changes, words that are misspelt.

use nvme_policy::{Ceiling, Dataspaces, FactoryRequest, SessionRequest, Trusted};
use nvme_session::factory::{CreateError, FactoryId};

use crate::driver::{LEN, REGIONS, guest};
use crate::judge::Judge;
use crate::judge::court::Holding;
use crate::judge::titles::{May, Title, called};
use crate::random::Random;
use crate::seat::Device;
use crate::setup::Setup;
use crate::step::{Operation, Spoil, Step};
use crate::world::{World, disk_of};

/// What some worlds have besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Besides {
    /// Bytes that a session may register; 0: more than any client has.
    pub memory: u64,
    /// Only dataspaces are registered that the operator trusts.
    pub trusted: bool,
    /// The last file of some clients is no memory.
    pub files: bool,
    /// Which GPT each disk begins with; 0: none.
    pub tables: [u8; 4],
    /// The device of the first seat is its own, whoever is there.
    pub fixed: bool,
}

/// How much a session may register: what its driver boots with, and all that it has, each once exactly and once with a byte too little for more.
const MEMORY: [u64; 4] = [LEN[0] + LEN[1], LEN[0] + LEN[1] + LEN[2] - 1, LEN[0] + LEN[1] + LEN[2], 0];

/// The names of dataspaces that an operator trusts.
const NAMES: [&str; 2] = ["a", "b"];

impl Besides {
    /// How much each session may register.
    pub(crate) fn memory_max(&self) -> u64 {
        if self.memory == 0 { 1 << 30 } else { self.memory }
    }

    /// The names by which words may call what is trusted.
    pub(crate) fn names(&self) -> Trusted<'static, &'static str> {
        if self.trusted { Trusted { names: &NAMES, held: Dataspaces::ALL } } else { Trusted::NONE }
    }

    /// Whether a client's file is memory: the last of each third client, in such a world, is none.
    pub(crate) fn is_memory(&self, client: u64, file: usize) -> bool {
        !(self.files && file % REGIONS == REGIONS - 1 && client % 3 == 1)
    }

    /// Which trusted dataspaces a client's file is, as bits. The last of each third client is a near miss.
    pub(crate) fn trusted(&self, client: u64, file: usize) -> u64 {
        match file % REGIONS {
            _ if !self.trusted => 0,
            0 => 0b01,
            1 => 0b11,
            _ if client.is_multiple_of(3) => 0,
            _ => 0b10,
        }
    }
}

impl Setup {
    /// By chance, from numbers of their own: what is chosen otherwise stays what it is.
    pub(crate) fn add_besides(&mut self, random: &mut Random) {
        if random.chance(600) {
            return;
        }
        self.besides.memory = random.of(&MEMORY);
        self.besides.trusted = random.chance(300);
        self.besides.files = random.chance(300);
        if random.chance(600) {
            for table in &mut self.besides.tables {
                *table =
                    if random.chance(600) { 1 + random.below(crate::gpt::KINDS.into()) as u8 } else { 0 };
            }
            for seat in &mut self.seats {
                if random.chance(700) {
                    seat.words[0] = random.of(&CALLED);
                }
                let reads = seat.words.contains(&"read-only");
                if !reads && random.chance(250) {
                    seat.words.push("read-only");
                }
            }
        }
        if random.chance(250) {
            // By its number: what is there by a label may be ambiguous.
            self.besides.fixed = true;
            self.seats[0].words[0] =
                random.of(&["device=d0:n1:1", "device=d0:n2", "device=d1:n1", "device=d1:n2"]);
        }
        for seat in &mut self.seats {
            if random.chance(300) {
                let files = random.of(&["ds-max=2", "ds-max=3"]);
                seat.words
                    .iter_mut()
                    .filter(|word| word.starts_with("ds-max="))
                    .for_each(|word| *word = files);
            }
            if self.besides.trusted && random.chance(400) {
                seat.words.extend(random.of(&[&["ds=a"][..], &["ds=a", "ds=b"]]));
            }
        }
    }
}

/// How seats call what has a table.
const CALLED: [&str; 24] = [
    "device=root",
    "device=root",
    "device=data",
    "device=partlabel:data",
    "device=last",
    "device=low",
    "device=marked",
    "device=partlabel:d0:n1:2",
    "device=d0:n1:2",
    "device=d0:n1:1",
    "device=d0:n1:3",
    "device=d0:n1:4",
    "device=d1:n2:1",
    "device=d1:n2:2",
    "device=d0:n2:2",
    "device=d1:n1:1",
    "device=d0:n1:9",
    "device=00000101-0000-4000-8000-000000000000",
    "device=partuuid:00000204-0000-4000-8000-000000000000",
    "device=partlabel:00000101-0000-4000-8000-000000000000",
    "device=table",
    "device=tail",
    "device=first",
    "device=two",
];

/// Words that are none, each with something that may have been meant by it.
const MISSPELT: [&str; 16] = [
    "readonly",
    "read_only",
    "Read-Only",
    "read-only=1",
    "read-onl",
    "ro",
    "",
    "device",
    "device=",
    "ds-max=0",
    "ds-max=300",
    "ds-max=+1",
    "iops=0",
    "bytes=5X",
    "ds=nobody",
    "sessions=1",
];

/// Chooses what comes besides.
pub(crate) struct Steps {
    random: Random,
    often: u32,
    misspells: bool,
    vanishes: bool,
    changes: bool,
}

impl Steps {
    /// None: there is nothing of that kind in this run.
    pub(crate) fn new(mut random: Random, hostile: bool) -> Option<Self> {
        let (misspells, vanishes) = (random.chance(150), random.chance(150));
        let often = random.of(&[2, 10, 40]);
        let changes = hostile && random.chance(700);
        let any = misspells || vanishes || changes;
        any.then_some(Self { random, often, misspells, vanishes, changes })
    }

    /// The next one, if its time has come.
    pub(crate) fn next(&mut self, seats: u32) -> Option<Step> {
        if self.changes && self.random.chance(150) {
            let (at, value) = (self.random.next() as u16, self.random.next() as u32);
            return Some(Step::Change { seat: self.random.below(seats) as u8, at, value });
        }
        if !self.random.chance(self.often) {
            return None;
        }
        let (seat, which) = (self.random.below(seats) as u8, self.random.next() as u8);
        match self.random.below(2) {
            0 if self.misspells => Some(Step::Operate(Operation::Misspell(seat, which))),
            1 if self.vanishes => Some(Step::Spoil(Spoil::Gone(seat, which))),
            _ => None,
        }
    }
}

impl World {
    /// Somebody misspells a word, and is refused.
    pub(crate) fn misspell(&mut self, at: usize, which: u8) -> bool {
        let Some(seat) = self.seats.get(at) else { return false };
        let mut words: Vec<&str> =
            seat.place.words.iter().copied().filter(|word| *word != "read-only").collect();
        let which = usize::from(which);
        words.push(MISSPELT[which % MISSPELT.len()]);
        words.rotate_right(which / 16 % 3);
        let (asked, names) = (self.spelled(&words), self.setup.besides.names());
        let admitted =
            SessionRequest::from_words(&asked, &names).and_then(|asked| Ceiling::SERVER.admit(&asked));
        if admitted.is_ok_and(|policy| self.control.create(&policy, false).is_ok()) {
            self.find(Judge::Authority, || format!("{words:?} mint a session"));
        }
        let factory =
            FactoryRequest::from_words(&asked, &names).ok().filter(|_| !words.contains(&"sessions=1"));
        if factory.is_some_and(|asked| self.control.delegate(FactoryId::SERVER, &asked).is_ok()) {
            self.find(Judge::Authority, || format!("{words:?} make a factory"));
        }
        // A serial number that two controllers have names neither.
        let named = SessionRequest::from_words(&["device=one:n1"], &names)
            .and_then(|asked| Ceiling::SERVER.admit(&asked));
        let both = self.setup.shared && self.machines.iter().all(|machine| !machine.troubled);
        if both && named.is_ok_and(|policy| self.control.create(&policy, false).is_ok()) {
            self.find(Judge::Authority, || {
                "a serial number that two controllers have names one of them".into()
            });
        }
        true
    }

    /// A hostile driver has eight bytes of its rings, tables or headers become others once they were read.
    pub(crate) fn lie_in_wait(&mut self, at: usize, place: u16, value: u32) -> bool {
        let Some(seat) = self.seats.get(at).filter(|seat| seat.place.hostile) else { return false };
        let Some(driver) = &seat.driver else { return false };
        let (which, value) = (u64::from(place >> 4), u64::from(value));
        let queue = u64::from(place >> 2 & 3) % driver.queues.len() as u64 * 0x8000;
        let small = |most: u64| value >> 8 & (most - 1);
        let address = || {
            let places = [guest(0), guest(1), guest(2), guest(0) + LEN[0] - 0x200, 0, u64::MAX << 12];
            places[(value & 7) as usize % 6].wrapping_add(small(0x4000))
        };
        let shape = || {
            let len = [0, 1, 16, 512, 1024, 4096, 0x6000, 0xffff_ffff][(value & 7) as usize];
            len | (value >> 3 & 7) << 32 | small(64) << 48
        };
        let sector = || [0, 8, 64, 255, 256, 511, 639, 1 << 40][(value & 7) as usize] + small(16);
        let (offset, to) = match place & 3 {
            0 => (which % 64 * 8, if which % 2 == 0 { address() } else { shape() }),
            1 => {
                let (slot, word) = (which % 6, which / 6 % 5);
                let to = if word == 0 { value & 0xf } else { sector() };
                (0x4000 + 0x40 * slot + [0, 8, 8, 32, 40][word as usize], to)
            }
            2 => {
                let (slot, word) = (which % 6, which / 6 % 10);
                (0x3000 + 0x80 * slot + 8 * word, if word % 2 == 0 { address() } else { shape() })
            }
            _ => (0x1000 + which % 9 * 8, value << 32 | value >> 16),
        };
        #[cfg(debug_assertions)]
        let _ = driver.memory[0].window.change_once_read((queue + offset) as usize, to);
        let _ = (queue, offset, to);
        true
    }

    /// Memory of a client vanishes: it is zeroes now. What that client does from now on is no honest driver's.
    pub(crate) fn memory_goes(&mut self, at: usize, region: u8) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let Some(driver) = &mut seat.driver else { return false };
        let device = seat.device;
        let nothing_asked = driver.queues.iter().all(|queue| queue.slots.iter().all(Option::is_none));
        let region = usize::from(region) % REGIONS;
        let memory = &mut driver.memory[region];
        let _ = memory.window.fill(0, memory.window.len(), 0);
        memory.window.owner().fail();
        memory.canary = false;
        if region == 0 && nothing_asked {
            driver.vanished.get_or_insert(self.seq);
        }
        seat.place.hostile = true;
        seat.excuse();
        // What it writes from there is what the memory has by then, in part.
        let Some(Device { holding: Holding { disk, first, sectors, writes }, .. }) = device else {
            return true;
        };
        for sector in (first..first + sectors).filter(|_| writes) {
            self.disks[disk].is_lost(sector);
        }
        true
    }

    /// What a name that is no number of a partition may call.
    pub(crate) fn called(&self, word: &str) -> Vec<&Title> {
        called(&self.titles, word.trim_start_matches("device="))
    }

    /// Whether a word calls a device by the number of a controller and a namespace: which disk, and which partition.
    pub(crate) fn numbered(word: &str) -> Option<(usize, Option<usize>)> {
        let mut parts = word.strip_prefix("device=")?.split(':');
        let controller = parts.next()?.strip_prefix('d')?.parse().ok()?;
        let nsid = parts.next()?.strip_prefix('n')?.parse().ok()?;
        let part = parts.next().and_then(|part| part.parse().ok());
        Some((disk_of(controller, nsid)?, part))
    }

    /// Whether a session may hold this by its name, as far as tables of GPTs say. `None`: it is no matter of theirs.
    pub(crate) fn titled(
        &self,
        words: &[&str],
        holding: &Holding,
        factory: bool,
    ) -> Option<Result<(), String>> {
        let here =
            |t: &&Title| (t.disk, t.first, t.sectors) == (holding.disk, holding.first, holding.sectors);
        let found: Vec<&Title> = match Self::numbered(words[0]) {
            None => self.called(words[0]),
            Some((disk, Some(number))) if self.tables[disk].is_there() => {
                self.titles.iter().filter(|t| (t.disk, t.number) == (disk, number)).collect()
            }
            Some(_) => return None,
        };
        let Some(title) = found.iter().copied().find(here) else {
            // An MBR may be there by now.
            let rewritten = Self::numbered(words[0]).is_some() && !self.is_untouched(holding.disk);
            return if rewritten { None } else { Some(Err("no table says so".into())) };
        };
        if title.may == May::Nobody || title.may == May::Read && holding.writes {
            return Some(Err(format!("{title:?}")));
        }
        // Of several by one name a factory may have one.
        if found.len() > 1 && !factory && self.are_all_untouched() {
            return Some(Err(format!("that names {} partitions", found.len())));
        }
        Some(Ok(()))
    }

    /// Whether nobody has written where a disk's table is, and nothing is wrong with its controller.
    fn is_untouched(&self, disk: usize) -> bool {
        let (controller, shift, _) = &self.media[disk];
        let (table, books) = (&self.tables[disk], &self.disks[disk]);
        let scale = 1 << (shift - 9);
        let places = table.places();
        let mut sectors = places.iter().flat_map(|place| place.start * scale..place.end * scale);
        let has = |sector: u64| table.sectors.binary_search_by_key(&sector, |(at, _)| *at).is_ok();
        let first = |sector: u64| if has(sector) { crate::gpt::NUMBERS + sector } else { 0 };
        let is = |sector: u64| {
            !books.is_unknown(sector) && books.candidates(sector).iter().all(|id| *id == first(sector))
        };
        !self.machines[*controller].troubled && (!table.is_there() || sectors.all(is))
    }

    fn are_all_untouched(&self) -> bool {
        (0..self.tables.len()).all(|disk| self.is_untouched(disk))
    }

    /// A seat was refused a session: not for its name, if that calls one partition that can be had like that.
    pub(crate) fn was_refused(&self, words: &[&str], why: &CreateError) {
        let found = match Self::numbered(words[0]) {
            None => self.called(words[0]),
            Some((disk, Some(number))) if self.tables[disk].is_there() => {
                let own = |t: &&Title| (t.disk, t.number) == (disk, number) && t.may != May::Nobody;
                self.titles.iter().filter(own).collect()
            }
            Some(_) => return,
        };
        let [title] = found[..] else { return };
        let writes = !words.contains(&"read-only");
        let right = match why {
            CreateError::NoDevice(_) | CreateError::Ambiguous { .. } => false,
            CreateError::ReadOnly { .. } => writes && title.may == May::Read,
            _ => true,
        };
        if !right && self.scanned && self.are_all_untouched() {
            self.find(Judge::Authority, || format!("{words:?} call {title:?}, and are refused: {why}"));
        }
    }

    /// What the first seat's client has to itself, if it has.
    fn kept_for_the_first(&self) -> Option<Holding> {
        let words = &self.seats.first().filter(|_| self.setup.besides.fixed)?.place.words;
        let writes = !words.contains(&"read-only");
        let (disk, part) = Self::numbered(words[0])?;
        let whole = (0, self.disks[disk].sectors());
        let place = match part {
            None => Some(whole),
            Some(number) if self.tables[disk].is_there() => {
                let title = self.titles.iter().find(|t| (t.disk, t.number) == (disk, number))?;
                (title.may == May::Write || !writes && title.may == May::Read)
                    .then_some((title.first, title.sectors))
            }
            Some(number) => crate::tables::partition(0, number as u32),
        };
        let (first, sectors) = place?;
        Some(Holding { disk, first, sectors, writes })
    }

    /// Another seat was given something: nothing of what is the first one's own.
    pub(crate) fn leaves_the_first_its_own(&self, at: usize, controller: usize, holding: &Holding) {
        if at == 0 || self.machines[controller].troubled {
            return;
        }
        let Some(own) = self.kept_for_the_first() else { return };
        if own.overlaps(holding) && (own.writes || holding.writes) {
            self.find(Judge::Authority, || {
                format!("seat {at} is granted {holding:?}, of what is the first one's")
            });
        }
    }

    /// The first seat's client is refused what is its own.
    pub(crate) fn first_was_refused(&self, why: &CreateError) {
        let Some(own) = self.kept_for_the_first() else { return };
        let controller = self.media[own.disk].0;
        // It may have rewritten its own table.
        let reads = matches!(why, CreateError::Scanning);
        if self.scanned && !reads && !self.machines[controller].troubled {
            self.find(Judge::Authority, || format!("the first seat is refused what is its own: {why}"));
        }
    }

    /// The server keeps the first seat's device for it.
    pub(crate) fn keep_for_the_first(&mut self) {
        let Some(seat) = self.seats.first().filter(|_| self.setup.besides.fixed) else { return };
        let asked = self.spelled(&seat.place.words);
        let asked = SessionRequest::from_words(&asked, &self.setup.besides.names());
        if let Ok(policy) = asked.and_then(|asked| Ceiling::SERVER.admit(&asked)) {
            let _ = self.control.catalogue_mut().reserve(&policy);
        }
    }
}
