//! Whose time is over, and when the next one's is.

use std::time::Duration;

use nvme_platform::Time;
use nvme_session::factory::FactoryId;

use super::watched::Watched;
use super::{CALLER_IDLE, CALLERS_MAX, CTL_PEERS_MAX, Server};
use crate::seat::{Conn, STALL_MAX, Seat};

impl Server {
    pub(super) fn deadline(&self) -> Option<Time> {
        let conns = self.seats.values().filter_map(|s| s.conn.as_ref()?.deadline);
        let lanes = self.seats.values().filter_map(|c| c.conn.as_ref()?.patience());
        let waiting = self.waiting.iter().map(|w| w.until);
        let (crowded, told) = (self.callers() >= CALLERS_MAX, self.ctl_patience());
        let idle = self.watched.values().filter_map(|w| match w {
            Watched::Caller(_, FactoryId::SERVER, heard) if crowded => Some(*heard + CALLER_IDLE),
            Watched::CtlPeer(_, since) => Some(*since + told),
            Watched::Scraper(_, until) => Some(*until),
            _ => None,
        });
        let idle = idle.chain(self.factory_deadlines());
        let own = [
            self.paused_until,
            self.control.next_deadline(),
            self.watchdog.deadline(),
            self.record_deadline(),
            self.drain_deadline(),
            self.rescan_deadline(),
            self.growth_deadline(),
            self.upgrades.deadline(),
        ];
        conns.chain(lanes).chain(waiting).chain(idle).chain(own.into_iter().flatten()).min()
    }

    /// For how long somebody may take to hear what there is: as long as nobody else may want the place, longer.
    fn ctl_patience(&self) -> Duration {
        if self.ctl_peers() >= CTL_PEERS_MAX { CALLER_IDLE } else { STALL_MAX }
    }

    /// Whose time is over.
    pub(super) fn expire(&mut self, time: Time) {
        let stalled: Vec<u32> = self
            .seats
            .iter()
            .filter(|(_, s)| s.conn.as_ref().and_then(|c| c.deadline).is_some_and(|d| time >= d))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            self.out_of_time(id);
        }
        let passed = |s: &Seat| s.conn.as_ref().and_then(Conn::patience).is_some_and(|until| time >= until);
        let slow: Vec<u32> = self.seats.iter().filter(|(_, s)| passed(s)).map(|(id, _)| *id).collect();
        for id in slow {
            self.lend(id, time, |seat, _| seat.out_of_patience());
            self.serve(id, time);
        }
        self.look_again(time);
        self.expire_successor(time);
        self.expire_waiting(time);
        self.expire_records(time);
        if let Some(audit) = &mut self.audit {
            let _ = audit.tick(time);
        }
        if self.paused_until.is_some_and(|until| time >= until) {
            self.resume_accepting();
        }
        let (crowded, told) = (self.callers() >= CALLERS_MAX, self.ctl_patience());
        let waits: Vec<u64> = if crowded { self.held() } else { Vec::new() };
        let held = |token: u64| waits.contains(&token);
        let mut over = Vec::new();
        for (token, watched) in &mut self.watched {
            match watched {
                // A silent caller keeps its place as long as nobody else may want it.
                Watched::Caller(_, FactoryId::SERVER, heard) if crowded && time >= *heard + CALLER_IDLE => {
                    if !held(*token) {
                        over.push(*token);
                    } else {
                        *heard = time;
                    }
                }
                Watched::CtlPeer(_, since) if time >= *since + told => over.push(*token),
                Watched::Scraper(_, until) if time >= *until => over.push(*token),
                _ => {}
            }
        }
        for token in over {
            self.forget(token);
        }
        self.expire_factory_callers(time);
    }
}
