//! The audit trail as the server keeps it: who was given what, who was refused, what ended and why.
//!
//! A thread writes it ([`Trail`]), and says by the bell what became of records that somebody waits for. What callers and clients
//! can cause as often as they like is bounded for each tenant ([`Bounds`]).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nvme_audit::{Bounds, Event, Head, Peer, Policy, Record, Ticket, Trail, is_foreign};
use nvme_linux::caps::TrailFile;
use nvme_linux::events::Doorbell;
use nvme_linux::logger::SERVER;
use nvme_linux::memory::Trusted;
use nvme_linux::socket;
use nvme_platform::Time;
use nvme_policy::{Access, Ceiling, Dataspaces};

use crate::failure::Failure;

/// How often a server says the head in its log.
pub(crate) const HEAD_EVERY: Duration = Duration::from_secs(3600);
/// How long a grant waits for its record, where it is to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What became of a record that a grant may depend on.
pub(crate) enum Noted {
    /// Nothing depends on it.
    Done,
    /// It is being written.
    Waits(Ticket),
    /// There is no room for it.
    Lost,
}

/// See the [module](self).
pub(crate) struct Audit {
    trail: Trail,
    required: bool,
    bounds: Bounds,
    failed: Option<io::ErrorKind>,
    head_every: Duration,
    next_head: Option<Time>,
}

impl Audit {
    /// Goes on with the file, and says the head in the log each time that `head_every` is over. To be called before the process gives up
    /// the right to start threads.
    pub(crate) fn start(
        file: TrailFile,
        bell: &Arc<Doorbell>,
        head_every: Duration,
    ) -> Result<Self, Failure> {
        let TrailFile { file, required, origin } = file;
        let file = File::from(file);
        // One that is open for writing only is empty.
        if is_foreign(&file).unwrap_or(false) {
            return Err(Failure::asked(format!(
                "{origin}: this file has something else in it than an audit trail"
            )));
        }
        let bell = Arc::clone(bell);
        let trail = Trail::start(file, required, move || bell.ring())?;
        let bounds = Bounds::default();
        Ok(Self { trail, required, bounds, failed: None, head_every, next_head: None })
    }

    /// Writes something down, soon. `tenant`: the factory right below the server's own that it came of; 0 for the server's own.
    pub(crate) fn note(&mut self, record: Record, tenant: u64, time: Time) {
        if self.bounds.allow(tenant, record.event, since_zero(time)) {
            self.trail.note(tenant, record);
        }
    }

    /// The same for a grant.
    pub(crate) fn grant(&mut self, record: Record, tenant: u64) -> Noted {
        if !self.required {
            self.trail.note(tenant, record);
            return Noted::Done;
        }
        self.trail.wait_for(tenant, record).map_or(Noted::Lost, Noted::Waits)
    }

    /// Goes on in another file.
    pub(crate) fn rotate(&self, file: File, last: Record) -> Ticket {
        self.trail.rotate(file, last)
    }

    /// What became of records that somebody waits for; and whether records are written again that were not.
    pub(crate) fn hear(&mut self) -> (Vec<(Ticket, bool)>, bool) {
        let failed = self.trail.failed();
        let mut again = false;
        if failed != self.failed {
            match failed {
                Some(why) => log::error!("audit: records cannot be written, and are counted: {why}"),
                None => log::info!(target: SERVER, "audit: records are written again"),
            }
            again = failed.is_none();
            self.failed = failed;
        }
        (self.trail.answers(), again)
    }

    /// When [`tick`](Self::tick) is to be called.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let counts = self.bounds.deadline().map(|at| Time::default() + at);
        self.next_head.into_iter().chain(counts).min()
    }

    /// Says what is to be said now and then. The head, where that was said.
    pub(crate) fn tick(&mut self, time: Time) -> Option<Head> {
        for count in self.bounds.due(since_zero(time)) {
            self.trail.note(0, count);
        }
        match self.next_head {
            Some(at) if time < at => None,
            first => {
                self.next_head = Some(time + self.head_every);
                first.map(|_| self.say_head())
            }
        }
    }

    /// A factory has ended: nothing is counted for it any more, where it was a tenant's first.
    pub(crate) fn forget(&mut self, factory: u64, time: Time) {
        for count in self.bounds.forget(factory, since_zero(time)) {
            self.trail.note(0, count);
        }
    }

    /// The last record that is written.
    pub(crate) fn head(&self) -> Head {
        self.trail.head()
    }

    /// Whether nothing is granted that is not written down.
    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    /// Why records are not written, if they are not.
    pub(crate) fn failed(&self) -> Option<io::ErrorKind> {
        self.failed
    }

    /// Everything is written that was said so far, in so little time that another server may be kept waiting for it: the last record. `None`:
    /// it is not, and must be.
    pub(crate) fn rest(&mut self, time: Time) -> Option<Head> {
        for count in self.bounds.all(since_zero(time)) {
            self.trail.note(0, count);
        }
        if self.trail.settle(PATIENCE) || !self.required { Some(self.trail.head()) } else { None }
    }

    /// Goes on behind the last record of another server, which has written to the file since this one looked.
    pub(crate) fn go_on_behind(&mut self, head: &str) -> Result<(), String> {
        let head = head.parse().map_err(|()| format!("audit: {head}: no record"))?;
        self.trail.go_on_behind(head);
        Ok(())
    }

    fn say_head(&self) -> Head {
        let head = self.head();
        log::info!(target: SERVER, "audit: head {head}");
        head
    }

    /// The server has ended: what there is left is written, if storage takes it in time.
    pub(crate) fn close(mut self, time: Time) {
        for count in self.bounds.all(since_zero(time)) {
            self.trail.note(0, count);
        }
        if !self.trail.close(PATIENCE) {
            log::error!("audit: the last records could not be written");
        }
        self.say_head();
    }
}

fn since_zero(time: Time) -> Duration {
    Duration::from_nanos(time.as_nanos())
}

/// Who asked.
pub(crate) fn peer(peer: Option<socket::Peer>) -> Option<Peer> {
    peer.map(|socket::Peer { pid, uid, gid }| Peer { pid, uid, gid })
}

/// What a session may do.
pub(crate) fn policy(device: &str, policy: &nvme_policy::Policy, trusted: &Trusted) -> Policy {
    Policy {
        devices: vec![device.to_owned()],
        read_only: policy.access() == Access::ReadOnly,
        ds_max: policy.ds_max().get(),
        dataspaces: names(policy.dataspaces(), trusted),
        iops: policy.rate().iops.map(Into::into),
        bytes: policy.rate().bytes.map(Into::into),
        ..Policy::default()
    }
}

/// What a factory may give.
pub(crate) fn ceiling(devices: Vec<String>, ceiling: &Ceiling, trusted: &Trusted) -> Policy {
    Policy {
        devices,
        read_only: ceiling.access() == Access::ReadOnly,
        ds_max: ceiling.ds_max().get(),
        dataspaces: names(ceiling.dataspaces(), trusted),
        iops: ceiling.rate().iops.map(Into::into),
        bytes: ceiling.rate().bytes.map(Into::into),
        sessions: ceiling.sessions(),
        factories: Some(ceiling.factories()),
        mem_max: ceiling.memory().map(Into::into),
        iops_all: ceiling.all().iops.map(Into::into),
        bytes_all: ceiling.all().bytes.map(Into::into),
    }
}

/// The names of the trusted dataspaces that it is bounded to.
pub(crate) fn names(dataspaces: Dataspaces, trusted: &Trusted) -> Option<Vec<String>> {
    let held = |place: &usize| dataspaces.admits(Some(*place));
    let named =
        || trusted.names().enumerate().filter(|(place, _)| held(place)).map(|(_, name)| name.to_owned());
    dataspaces.is_bounded().then(|| named().collect())
}

/// What a client did to its memory, or was refused, for the trail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    pub(crate) event: Event,
    /// Which memory file; none where a refusal came before that was known.
    pub(crate) dataspace: Option<String>,
    pub(crate) size: Option<u64>,
    pub(crate) why: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_head_is_said_once_an_hour_and_is_that_of_what_was_written_until_then() {
        let path = std::env::temp_dir().join(format!("nvme-audit-{}", std::process::id()));
        let file: OwnedFd =
            File::options().read(true).append(true).create_new(true).open(&path).unwrap().into();
        let bell = Arc::new(Doorbell::new().unwrap());
        let file = TrailFile { file, required: false, origin: "test".into() };
        let mut audit = Audit::start(file, &bell, HOUR).unwrap();
        let start = Time::from_nanos(77_000_000_000);
        assert_eq!(audit.tick(start), None, "what it began with is in nobody's interest");
        let said = |audit: &mut Audit, at: Duration| {
            assert!(audit.deadline().is_some(), "nobody would come and ask");
            audit.tick(start + at)
        };
        let written = |audit: &Audit, seq: u64| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while audit.head().seq != seq {
                assert!(Instant::now() < deadline, "it is not written");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        audit.note(Record::of(Event::Start), 0, start);
        written(&audit, 1);
        let second = Duration::from_secs(1);
        assert_eq!(said(&mut audit, HOUR - second), None);
        assert_eq!(audit.deadline(), Some(start + HOUR));
        let first = said(&mut audit, HOUR).unwrap();
        assert_eq!((first, audit.deadline()), (audit.head(), Some(start + HOUR + HOUR)));
        assert_eq!(said(&mut audit, HOUR + second), None);
        // However late it is looked at, it is said once, and then an hour later.
        audit.note(Record::of(Event::Stop), 0, start);
        written(&audit, 2);
        let second_head = said(&mut audit, 5 * HOUR).unwrap();
        assert!(second_head != first && second_head == audit.head());
        assert_eq!(said(&mut audit, 6 * HOUR - second), None);
        assert_eq!(said(&mut audit, 6 * HOUR), Some(second_head));
        std::fs::remove_file(&path).unwrap();
    }
}
