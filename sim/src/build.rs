//! How a world is built: its disks first, then a server over them.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_core::server::control::{Config, Control, RecoveryTimes};
use nvme_core::server::worker::Worker;
use nvme_platform::Time;
use nvme_policy::PciPlace;
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::queue::Direction;
use nvme_soft::{Config as Soft, Medium, MemoryMedium, NamespaceConfig, SoftDevice, WriteCache};

use crate::device::{Books, Knobs, Watched};
use crate::gpt::{self, Table};
use crate::judge::court::Place;
use crate::judge::model::{self, Disk, TABLE};
use crate::judge::titles;
use crate::seat::Seat;
use crate::setup::Setup;
use crate::storage::Slow;
use crate::world::{CONTROLLERS, Hand, IO, Machine, NAMESPACES, SHARED, World};

/// What the operator chose.
pub(crate) fn config(setup: &Setup) -> Config {
    Config {
        workers: setup.workers,
        sessions_max: 64,
        memory_max: setup.besides.memory_max(),
        trusted_only: setup.besides.trusted,
        queues: crate::driver::QUEUES,
        transport: Transport { direction: Direction::AsFlagged, features: features::OPTIONAL },
        nvme: Options { io_timeout: IO, ..Options::default() },
        recovery: RecoveryTimes::default(),
        drain: Duration::from_secs(30),
    }
}

fn hand() -> Hand {
    Hand {
        worker: Worker::new(Duration::ZERO),
        to: VecDeque::new(),
        from: VecDeque::new(),
        delivered: 0,
        awake: true,
        wake_at: None,
        idle: false,
    }
}

impl World {
    /// A world with a server that has just begun.
    pub(crate) fn new(setup: Setup) -> Option<Self> {
        let books = Books::default();
        let mut court = books.open();
        let (mut disks, mut caches, mut media) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tables, mut titles) = (Vec::new(), Vec::new());
        for (disk, (controller, nsid, sectors, shift)) in NAMESPACES.iter().enumerate() {
            let medium = MemoryMedium::new(sectors * 512)?;
            let mut model = Disk::new(*sectors, setup.cache);
            let (kind, scale) = (setup.besides.tables[disk], 1 << (shift - 9));
            let table = match kind {
                0 => Table::default(),
                kind => gpt::table(kind, *sectors as u64 / scale, *shift),
            };
            for (sector, bytes) in &table.sectors {
                medium.window().write(*sector as usize * 512, bytes).ok()?;
                model.put(*sector, gpt::NUMBERS + sector);
            }
            titles.extend(titles::titles(disk, &table, scale));
            tables.push(table);
            if disk == 0 && kind == 0 {
                let mut table = [0; 512];
                model::fill(TABLE, &mut table);
                medium.window().write(0, &table).ok()?;
                model.put(0, TABLE);
            }
            let (medium, cache): (Arc<dyn Medium>, _) = if setup.cache {
                let cache = Arc::new(WriteCache::new(medium)?);
                cache.lose_power();
                (Arc::clone(&cache) as Arc<dyn Medium>, Some(cache))
            } else {
                (Arc::new(medium), None)
            };
            media.push((*controller, *shift, medium));
            court.places.insert((*controller, *nsid), Place { disk, shift: *shift });
            caches.push(cache);
            disks.push(model);
        }
        if setup.shared {
            let (nsid, sectors, shift) = SHARED;
            let medium: Arc<dyn Medium> = Arc::new(MemoryMedium::new(sectors * 512)?);
            for controller in 0..CONTROLLERS {
                media.push((controller, shift, Arc::clone(&medium)));
                court.places.insert((controller, nsid), Place { disk: disks.len(), shift });
            }
            tables.push(Table::default());
            disks.push(Disk::new(sectors, false));
            caches.push(None);
        }
        drop(court);
        let mut world = Self {
            hands: Vec::new(),
            control: Control::new(config(&setup)),
            control_awake: true,
            machines: Vec::new(),
            caches,
            books,
            disks,
            tables,
            titles,
            media,
            storages: Vec::new(),
            seats: setup.seats.iter().cloned().map(Seat::new).collect(),
            now: Time::from_nanos(1_000_000_000),
            seq: 1,
            writes: 0,
            null: File::open("/dev/null").ok()?.into(),
            scanned: false,
            down: false,
            done: 0,
            buffer: vec![0; 32 * 512],
            factories: Vec::new(),
            drained: Vec::new(),
            keeps: false,
            frozen: None,
            before: Vec::new(),
            taking_up: false,
            troubled: Vec::new(),
            hangs: Vec::new(),
            setup,
        };
        world.begin()?;
        Some(world)
    }

    /// A server begins, over the disks as they are. Nothing is here of one before.
    pub(crate) fn begin(&mut self) -> Option<()> {
        self.control = Control::new(config(&self.setup));
        self.hands = (0..self.setup.workers).map(|_| hand()).collect();
        self.court().begin(CONTROLLERS);
        (self.scanned, self.control_awake) = (false, true);
        let mut namespaces: Vec<Vec<NamespaceConfig>> = (0..CONTROLLERS).map(|_| Vec::new()).collect();
        for (controller, shift, medium) in &self.media {
            let medium = Arc::clone(medium);
            let namespace = if self.setup.slow {
                let slow = Slow::new(medium);
                slow.freeze(self.hangs.get(self.storages.len()).is_some_and(|hangs| *hangs));
                self.storages.push(Arc::clone(&slow));
                NamespaceConfig::stored(slow)
            } else {
                NamespaceConfig::new(medium)
            };
            namespaces[*controller].push(namespace.block_size(1 << shift));
        }
        for (number, namespaces) in namespaces.into_iter().enumerate() {
            self.plug_in(number, namespaces)?;
            self.machines[number].troubled = self.troubled.get(number).is_some_and(|troubled| *troubled);
        }
        self.keep_for_the_first();
        Some(())
    }

    fn plug_in(&mut self, number: usize, namespaces: Vec<NamespaceConfig>) -> Option<()> {
        let setup = &self.setup;
        let apart = setup.apart[number];
        let soft = SoftDevice::new(Soft {
            serial: format!("d{number}"),
            namespaces,
            namespaces_max: 8,
            mdts: setup.mdts,
            sgl: setup.sgl,
            write_cache: setup.cache,
            queues: setup.pairs,
            mqes: setup.mqes,
            apart: if apart { Some(Box::new(|| {})) } else { None },
            faults: setup.faulty.then(Vec::new),
            ..Soft::default()
        })
        .ok()?;
        let knobs: Arc<Mutex<Knobs>> = Arc::default();
        self.machines.push(Machine {
            handle: soft.handle(),
            engine: apart.then(|| soft.engine()),
            knobs: Arc::clone(&knobs),
            troubled: false,
            unbelieved: false,
            gone: false,
            another: false,
            again: None,
        });
        let device = Watched { soft, books: self.books.clone(), number, knobs };
        let place = PciPlace::parse(&format!("0000:{number:02x}:00.0"));
        self.identify(number);
        self.control.add_pci_device(&format!("d{number}"), Box::new(device), None, place);
        Some(())
    }
}
