//! The next server gets everything, once it stands still; or this one goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nvme_core::nvme;
use nvme_linux::events::now;
use nvme_linux::logger::SERVER;
use nvme_platform::{Iova, Time};

use super::super::Server;
use super::{Gone, LINK, LOOK, Stays, shown};
use crate::devices::Over;
use crate::fatal::Fatal;
use crate::keep::has_hung_up;
use crate::upgrade::{Files, Link};

/// How long everything may stand still: what is in flight ends, and the next server takes it up. Longer by what the slowest hardware controller
/// may take for a reset.
const STANDS_STILL: Duration = Duration::from_secs(10);
/// Most of that.
const RESETS: Duration = Duration::from_secs(60);
/// How long what is in flight may take to end.
const DRAINS: Duration = Duration::from_secs(5);
/// How long a next server may take to end that does not take over.
const ENDS: Duration = Duration::from_secs(15);
/// How long it is waited until nothing is under way at a controller's admin queue.
const SETTLES: Duration = Duration::from_millis(200);

/// A hardware controller that is left running.
pub(super) struct LeftRunning {
    /// The memory of its admin queue.
    pub(super) file: OwnedFd,
    /// Where that is.
    pub(super) at: Iova,
    pub(super) left: nvme::Left,
}

impl Server {
    /// All stands still, and the next server gets it; or this one goes on.
    pub(super) fn hand_over(&mut self) -> Result<(), Fatal> {
        let (start, Some(successor)) = (now(), self.upgrades.successor.take()) else { return Ok(()) };
        let who = shown(successor.peer);
        log::info!(target: SERVER, "upgrade{who}: it takes over; sessions stand still");
        self.upgrades.frozen = true;
        let handed = self
            .stand_still(start + DRAINS)
            .and_then(|()| self.settle_store(start + DRAINS))
            .and_then(|()| self.settle_functions(now() + SETTLES))
            .and_then(|()| self.give(&successor.link, start));
        match handed {
            Ok(()) => {
                let took = (now() - start).as_millis();
                log::info!(target: SERVER, "upgrade{who}: it has taken over after {took} ms; this server ends");
                if let Some(peer) = successor.peer {
                    self.notifier.main_pid(peer.pid);
                }
                // From here on the service manager listens to it.
                let _ = successor.link.send("main", &[], now() + LINK);
                let pid = successor.peer.map_or(0, |peer| peer.pid);
                self.upgrades.gone = Some(Gone { pid, link: successor.link });
                return Ok(());
            }
            Err(Stays::Fatal(fatal)) => return Err(fatal),
            Err(why) => {
                let ends = rustix::io::fcntl_dupfd_cloexec(&successor.link, 0);
                self.upgrades.successor = Some(successor);
                self.leave_successor(&why);
                if self.upgrades.given.take() && self.functions().next().is_some() {
                    self.take_functions_back(&ends.map_err(std::io::Error::from)?)?;
                }
            }
        }
        self.upgrades.frozen = false;
        self.go_on(now());
        Ok(())
    }

    /// The next server has had all, and does not take over: hardware is this one's again as soon as that one has ended. Both must not use it, so
    /// this one does not go on with it before, and ends where that takes too long: whoever is started next waits for both.
    fn take_functions_back(&mut self, link: &OwnedFd) -> Result<(), Fatal> {
        let until = now() + ENDS;
        while !has_hung_up(link.as_fd()) {
            if now() >= until {
                let why = "the next server neither takes over nor ends, and has hardware controllers";
                return Err(std::io::Error::other(why).into());
            }
            self.notifier.alive();
            std::thread::sleep(LOOK * 20);
        }
        for (word, held) in self.functions() {
            log::warn!(target: SERVER, "{word}: the next server had it; it is reset");
            // One that is gone is found to be by the driver.
            match held.stop().and_then(|()| held.reclaim()) {
                Ok(_) | Err(rustix::io::Errno::NODEV | rustix::io::Errno::IO) => {}
                Err(why) => return Err(std::io::Error::from(why).into()),
            }
        }
        // The driver sees that, and has its queues back from workers, before rings go on.
        self.control.poll(now());
        self.tell_workers()
    }

    /// How hardware controllers are left running, as far as they can be, with their words.
    pub(super) fn lefts(&self) -> Vec<(&str, Option<LeftRunning>)> {
        let all = self.upgrades.began.controllers.iter().zip(0_u16..);
        let hardware = all.filter_map(|((word, over), index)| match over {
            Over::Hardware(held) => Some((word.as_str(), held, index)),
            Over::Memory(_) | Over::Image(_) => None,
        });
        let lefts = hardware.map(|(word, held, index)| {
            let left = self.control.leave_device(index);
            (word, left.and_then(|(at, left)| Some(LeftRunning { file: held.left(at)?, at, left })))
        });
        lefts.collect()
    }

    /// How long everything may stand still.
    pub(super) fn stands_still(&self) -> Duration {
        let hardware = self.functions().next().is_some();
        STANDS_STILL + if hardware { self.control.reset_wait().min(RESETS) } else { Duration::ZERO }
    }

    /// Gives the next server all that this one has, and has it take over.
    fn give(&mut self, link: &Link, start: Time) -> Result<(), Stays> {
        let until = start + self.stands_still();
        let head = match &mut self.audit {
            Some(audit) => Some(
                audit.rest(now()).ok_or_else(|| Stays::Why("the audit trail cannot be written".into()))?,
            ),
            None => None,
        };
        self.notifier.alive();
        let lefts = self.lefts();
        let mut files = Files::default();
        let state = self.state(head.map(|head| head.to_string()), &lefts, &mut files)?;
        self.upgrades.given.set(true);
        link.send_document(&state, &files, until)?;
        link.expect("ready", until)?;
        self.notifier.alive();
        Ok(link.send("go", &[], until)?)
    }
}
