//! How the process's descriptors are divided, so that no session can use up what others need.
//!
//! The server's own come first, then an equal share for each static client, and what is left is the dynamic sessions':
//! fewer of them where the limit (RLIMIT_NOFILE) is low, rather than sessions that get in each other's way.

use nvme_core::server::control::Regions;
use nvme_linux::memory::WINDOWS_MAX;
use nvme_linux::vhost::{DESCRIPTORS_MAX, QUEUES};
use nvme_session::factory::FACTORIES_MAX;
use nvme_session::memory::SLOTS_MAX;
use rustix::process::{Resource, getrlimit};

/// The server's own: controllers, sockets, threads, callers of the factory with the message of one of them, and what waits to be closed.
const OWN: usize = 200;
/// A factory's besides its callers: its lifetime or its connection, and its socket.
const FACTORY: usize = 2;
/// Each of its callers': its connection, and the socket that came with a call that waits.
const CALLER: usize = 2;
/// Callers of one factory's own socket at a time; fewer where descriptors are scarce.
const CALLERS_EACH: usize = 8;
/// Each worker's, its ring and the ring's event among them.
const WORKER: usize = 6;
/// Connections to a session's socket that wait for their turn, at most. Fewer where descriptors are scarce.
const WAITING_MAX: usize = 8;
/// A session's besides what it is given a budget for: its sockets, its capability, the channel to its client, the set that its kicks are in
/// where they are many.
const SESSION: usize = 5;
/// A session's that is kept: both ends of its shelf, and journals of 256 rings.
const KEPT: usize = 2 + QUEUES as usize / 16;
/// A factory's that is kept: both ends of its shelf.
const KEPT_FACTORY: usize = 2;
/// Most that rings can use: kick, call and error each.
const RINGS_MAX: usize = 3 * QUEUES as usize;
/// The least that a session is of use with. A client may begin a message with as many descriptors, and stall.
const LEAST: usize = DESCRIPTORS_MAX;
/// The least that wait for their turn at its socket: one that says nothing yields to the next.
const LEAST_WAITING: usize = 2;
/// The most that a session can use.
const SHARE_MAX: usize = SESSION + RINGS_MAX + WAITING_MAX;
/// Most descriptors that clients may make the server keep for ever ([`nvme_linux::dispose`]) before it takes no new ones.
const LOST_MAX: usize = 1024;
/// Mappings that are the server's own: its program, stacks, rings and pools.
const OWN_MAPS: usize = 2048;
/// What the kernel lets a process map, where it does not say: its default.
const MAPS: usize = 65_530;

/// What each may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Budget {
    /// Sessions at a time, static clients' included.
    pub(crate) sessions: usize,
    /// A static client's.
    pub(crate) fixed: Share,
    /// A dynamic session's.
    pub(crate) dynamic: Share,
    /// Descriptors that may be lost.
    pub(crate) lost: usize,
    /// Attenuated factories at a time.
    pub(crate) factories: usize,
    /// Callers of one of them.
    pub(crate) callers_each: usize,
}

/// One session's share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    /// Eventfds of its rings, with what came of a message that is not whole.
    pub(crate) eventfds: usize,
    /// Connections that wait while another is there.
    pub(crate) waiting: usize,
}

impl Share {
    /// What is left of so many without the session's own. Who waits comes last.
    fn new(descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(SESSION);
        let waiting = free.saturating_sub(LEAST).min(WAITING_MAX);
        Self { eventfds: (free - waiting).min(RINGS_MAX), waiting }
    }
}

impl Budget {
    /// Divides what the process may open at most, without the `held` descriptors of hardware controllers. `keeps`: each session has some more,
    /// in case that the server is killed.
    pub(crate) fn of_process(
        sessions: usize,
        clients: usize,
        workers: usize,
        held: usize,
        keeps: bool,
    ) -> Self {
        let limit = getrlimit(Resource::Nofile).maximum.and_then(|n| usize::try_from(n).ok());
        let limit = limit.unwrap_or(usize::MAX);
        // Few sessions have so many rings: where descriptors are scarce, as many as may be had without harm.
        let kept = sessions.saturating_mul(KEPT).saturating_add(FACTORIES_MAX * KEPT_FACTORY);
        let kept = if keeps { kept.min(limit / 8) } else { 0 };
        Self::new(limit.saturating_sub(held).saturating_sub(kept), sessions, clients, workers)
    }

    fn new(limit: usize, sessions: usize, clients: usize, workers: usize) -> Self {
        let lost = (limit / 8).min(LOST_MAX);
        let own = OWN.saturating_add(lost).saturating_add(workers.saturating_mul(WORKER));
        let free = limit.saturating_sub(own);
        // Of scarce descriptors factories get an eighth at most: fewer callers each first, then fewer factories.
        let most = FACTORIES_MAX * (FACTORY + CALLERS_EACH * CALLER);
        let callers_each = if most <= free / 16 { CALLERS_EACH } else { CALLERS_EACH / 4 };
        let each = FACTORY + callers_each * CALLER;
        let factories = (free / 8 / each).min(FACTORIES_MAX);
        let free = free - factories * each;
        // Half of it at most, so that there is a factory as well; unless there is enough for everybody.
        let enough = sessions.max(clients).saturating_mul(SHARE_MAX) <= free;
        let half = if enough { free } else { free / 2 };
        let fixed = half.checked_div(clients).unwrap_or(SHARE_MAX).clamp(SESSION, SHARE_MAX);
        let pool = free.saturating_sub(fixed.saturating_mul(clients));
        let count = sessions.saturating_sub(clients).min(pool / (SESSION + LEAST + LEAST_WAITING));
        let each = pool.checked_div(count).unwrap_or(SHARE_MAX).clamp(SESSION, SHARE_MAX);
        Self {
            sessions: count.saturating_add(clients),
            fixed: Share::new(fixed),
            dynamic: Share::new(each),
            lost,
            factories,
            callers_each,
        }
    }

    /// How many queues each session's device has: those that it has kicks, calls and error eventfds for.
    pub(crate) fn queues(&self) -> u16 {
        let least = self.fixed.eventfds.min(self.dynamic.eventfds) / 3;
        u16::try_from(least).map_or(QUEUES, |queues| queues.clamp(1, QUEUES))
    }

    /// What there is less of than was asked for, if anything.
    pub(crate) fn less_than(&self, sessions: usize) -> Option<String> {
        let (room, queues) = (self.sessions.min(sessions), self.queues());
        (room < sessions || queues < QUEUES).then(|| {
            format!(
                "RLIMIT_NOFILE has room for {room} of {sessions} sessions, with {queues} of {QUEUES} queues each; raise its hard limit"
            )
        })
    }

    /// Divides what the process may map among the regions of these sessions: a whole table and its successor for each
    /// static client, half of the rest in equal shares, and the other half to whoever comes first.
    pub(crate) fn regions(&self, clients: usize) -> Regions {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(MAPS);
        regions(limit, self.sessions, clients)
    }
}

fn regions(limit: usize, sessions: usize, clients: usize) -> Regions {
    let free = limit.saturating_sub(OWN_MAPS).min(WINDOWS_MAX);
    let fixed = (free / 2).checked_div(clients).unwrap_or(0).min(SLOTS_MAX);
    let rest = free.saturating_sub(fixed.saturating_mul(clients));
    let count = sessions.saturating_sub(clients);
    let dynamic = (rest / 2).checked_div(count).unwrap_or(0).min(SLOTS_MAX);
    Regions { fixed, dynamic, common: rest - dynamic.saturating_mul(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Share = Share { eventfds: RINGS_MAX, waiting: WAITING_MAX };

    fn sum(share: Share) -> usize {
        SESSION + share.eventfds + share.waiting
    }

    #[test]
    fn a_usual_limit_gives_everybody_all_there_is() {
        let (factories, callers_each) = (FACTORIES_MAX, CALLERS_EACH);
        let all = Budget { sessions: 256, fixed: ALL, dynamic: ALL, lost: LOST_MAX, factories, callers_each };
        assert_eq!(Budget::new(1 << 20, 256, 4, 8), all);
        assert_eq!(Budget::new(usize::MAX, 256, 4, 8), all);
    }

    #[test]
    fn the_unit_s_limit_has_room_for_all_sessions_with_all_queues() {
        let unit = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../systemd/nvme-drv.service"
        ));
        let unit = unit.unwrap();
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        for clients in [0, 1, 16, 200, 256] {
            let b = Budget::new(limit.parse().unwrap(), 256, clients, 16);
            assert_eq!((b.sessions, b.queues(), b.less_than(256)), (256, QUEUES, None), "{clients}");
        }
    }

    #[test]
    fn what_a_low_limit_has_no_room_for_is_said() {
        let b = Budget::new(4096, 16, 0, 1);
        assert!(b.sessions == 16 && b.queues() < 256 && 3 * usize::from(b.queues()) <= b.dynamic.eventfds);
        let said = b.less_than(16).unwrap();
        assert!(
            said.starts_with(&format!(
                "RLIMIT_NOFILE has room for 16 of 16 sessions, with {} of 256 queues each;",
                b.queues()
            )),
            "{said}"
        );
        let b = Budget::new(1024, 256, 0, 1);
        assert!(b.less_than(256).unwrap().contains(&format!("for {} of 256 sessions", b.sessions)));
    }

    #[test]
    fn all_budgets_together_never_exceed_the_limit() {
        for limit in [0, 100, 400, 1024, 4096, 20_000, 65_536] {
            for clients in [0, 1, 3, 16] {
                for sessions in [1, 16, 256] {
                    let b = Budget::new(limit, sessions, clients, 2);
                    let dynamic = b.sessions - clients;
                    let factories = b.factories * (FACTORY + b.callers_each * CALLER);
                    let used = factories
                        + OWN
                        + b.lost
                        + 2 * WORKER
                        + clients * sum(b.fixed)
                        + dynamic * sum(b.dynamic);
                    let least = OWN + b.lost + 2 * WORKER + clients * SESSION;
                    assert!(used <= limit.max(least), "{limit} {clients} {sessions}: {b:?}");
                    assert!(limit < 1024 || b.factories >= 8 && b.callers_each >= 2, "{limit}: {b:?}");
                    assert!(
                        dynamic == 0 || b.dynamic.eventfds >= LEAST && b.dynamic.waiting >= LEAST_WAITING,
                        "{limit} {clients} {sessions}: {b:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_low_limit_costs_sessions_before_it_costs_their_rings() {
        let b = Budget::new(1024, 256, 1, 1);
        assert!(b.fixed.eventfds >= LEAST && b.sessions > 4 && b.sessions < 256, "{b:?}");
    }

    #[test]
    fn regions_never_exceed_what_may_be_mapped_and_static_clients_have_all_of_theirs() {
        for limit in [0, 3000, MAPS, 1 << 20] {
            for clients in [0, 1, 3, 16] {
                for sessions in [1, 16, 256] {
                    let r = regions(limit, sessions, clients);
                    let count = sessions.saturating_sub(clients);
                    let most = limit.saturating_sub(OWN_MAPS).min(WINDOWS_MAX);
                    assert!(clients * r.fixed + count * r.dynamic + r.common <= most, "{r:?}");
                    assert!(limit < MAPS || clients == 0 || r.fixed == SLOTS_MAX, "{r:?}");
                    assert!(limit < MAPS || count == 0 || r.dynamic >= 90, "{r:?}");
                }
            }
        }
    }
}
