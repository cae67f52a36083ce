//! What goes wrong with devices and disks.

use std::time::Duration;

use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;

use crate::step::Spoil;
use crate::world::{CONTROLLERS, NAMESPACES, World};

/// Namespace Not Ready: to be tried again.
const NOT_READY: Status = Status(0x82);

impl World {
    pub(crate) fn spoil(&mut self, what: Spoil) -> bool {
        let number = |n: u8| usize::from(n) % CONTROLLERS;
        self.control_awake = true;
        match what {
            Spoil::Rule(at, kind, much) => self.rule(number(at), kind, much),
            Spoil::Heal(at) => {
                if self.machines[number(at)].handle.faults().is_none() {
                    return false;
                }
                self.heal(number(at));
            }
            Spoil::Forge(at, which) => {
                let at = number(at);
                // What was over with a completion that the driver did not believe is not over for it: to forge that one is to answer.
                if self.machines[at].unbelieved {
                    return false;
                }
                let stale = self.court().buses[at].stale.clone();
                let Some((queue, cid)) = stale.get(usize::from(which) % 16).copied() else { return false };
                self.trouble(at);
                self.machines[at].handle.forge(queue, cid, Status::SUCCESS);
                self.books.open().scan(at);
            }
            Spoil::Fatal(at) => {
                self.trouble(number(at));
                self.machines[number(at)].handle.raise_fatal();
            }
            Spoil::Internal(at) => {
                self.trouble(number(at));
                self.machines[number(at)].handle.raise_internal_error();
                self.books.open().scan(number(at));
            }
            Spoil::BusError(at) => {
                self.trouble(number(at));
                self.control.device_failed(number(at) as u16);
            }
            Spoil::Power(at) => self.power(number(at)),
            Spoil::Vanish(at) => {
                self.may_keep();
                self.trouble(number(at));
                self.machines[number(at)].gone = true;
                self.machines[number(at)].handle.vanish();
            }
            Spoil::Remove(at) => {
                self.may_keep();
                self.trouble(number(at));
                self.machines[number(at)].gone = true;
                self.control.remove_device(number(at) as u16);
            }
            Spoil::Resize(disk, eighths) => {
                let (at, nsid, sectors, _) = NAMESPACES[usize::from(disk) % NAMESPACES.len()];
                self.trouble(at);
                let bytes = (sectors * 512 / 8 * (1 + usize::from(eighths) % 8)) as u64 & !4095;
                self.machines[at].handle.resize(nsid, bytes);
                self.books.open().scan(at);
            }
            Spoil::Another(at) => {
                if self.machines[number(at)].handle.faults().is_none() {
                    return false;
                }
                self.trouble(number(at));
                self.becomes_another(number(at));
            }
            Spoil::Freeze(disk) | Spoil::Fail(disk, ..) => {
                let disk = usize::from(disk) % self.storages.len().max(1);
                let Some(storage) = self.storages.get(disk).cloned() else { return false };
                self.may_keep();
                (0..CONTROLLERS).for_each(|at| self.trouble(at));
                match what {
                    Spoil::Fail(_, count, kind) => storage.fail(count % 8, kind),
                    _ => storage.freeze(true),
                }
            }
            Spoil::Maps(at, left) => {
                self.trouble(number(at));
                self.machines[number(at)].knobs().maps_left = (left != 255).then_some(left.into());
            }
            Spoil::Gone(at, region) => return self.memory_goes(at.into(), region),
            Spoil::Unprovable(at) => {
                self.trouble(number(at));
                self.keeps = true;
                let mut knobs = self.machines[number(at)].knobs();
                (knobs.cut_off_fails, knobs.reset_fails) = (true, true);
            }
        }
        self.after_control();
        true
    }

    /// What is with a controller may fail, and take long.
    fn trouble(&mut self, at: usize) {
        self.machines[at].troubled = true;
        for seat in self.seats.iter_mut().filter(|s| s.device.is_some_and(|d| d.controller == at)) {
            seat.excuse();
        }
    }

    /// What storage has under way cannot be cut off, and is kept if it is never seen to end.
    fn may_keep(&mut self) {
        self.keeps |= self.setup.slow;
    }

    fn power(&mut self, at: usize) {
        self.trouble(at);
        if self.machines[at].gone {
            return;
        }
        // Commands are over before power is lost.
        self.storages_of(at).for_each(|storage| storage.lose_power());
        self.storage_answered();
        self.machines[at].handle.power_cycle();
        for (disk, (controller, ..)) in NAMESPACES.iter().enumerate() {
            if *controller == at
                && let Some(cache) = &self.caches[disk]
            {
                cache.lose_power();
                self.disks[disk].power_lost(self.seq);
            }
        }
    }

    fn rule(&mut self, at: usize, kind: u8, much: u8) {
        if self.setup.slow && !matches!(kind % 14, 2 | 3 | 5..=8) {
            // Who waits for storage waits for ever: a command must not be lost.
            return;
        }
        self.trouble(at);
        // Identifiers that no command has for a long time.
        let stale: Vec<u16> = (0..u16::from(much) % 9).map(|n| 0xf000 | n).collect();
        let time = Duration::from_millis([1, 40, 900, 4000, 7000, 20_000][usize::from(much) % 6]);
        let queue = if kind >= 200 { Queue::Admin } else { Queue::AnyIo };
        let one = stale.first().copied().unwrap_or(0xffff);
        let action = match kind % 14 {
            0 => Action::Hang,
            1 => Action::Drop,
            2 | 3 => Action::Delay(time),
            4 => Action::DelayDeaf(time),
            5 => Action::Fail(NOT_READY),
            6 => Action::Fail(Status::READ_ERROR),
            7 => Action::Status(Status::WRITE_FAULT),
            8 => Action::Duplicate,
            9 => Action::Phase,
            10 => Action::CommandId(one),
            11 => Action::QueueId(u16::from(much) + 100),
            12 => Action::Head(u16::from(much) * 257),
            _ => Action::Forge(stale),
        };
        self.machines[at].unbelieved |= matches!(kind % 14, 9..=12);
        let when = match much % 3 {
            0 => When::First(1 + u64::from(much % 5)),
            1 => When::Nth(1 + u64::from(much % 7)),
            _ => When::Chance { per_mille: 100, seed: u64::from(much) },
        };
        if let Some(faults) = self.machines[at].handle.faults() {
            faults.inject(Rule::any(queue, when, action));
        }
    }
}
