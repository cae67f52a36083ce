//! A file of records that is written by a thread of its own: whoever has something to say waits for no storage.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::chain::{Chain, Head};
use super::record::{Event, Record};
use super::verify::resume;

/// Records that may wait to be written.
const WAITING_MAX: usize = 4096;
/// Of these, refusals, and what clients do to dataspaces: whoever asks for what he cannot have does not push out grants and ends.
const REFUSALS_MAX: usize = 1024;
/// Of these, one tenant's: where storage hangs, whoever mints and closes without end does not push out what others are given.
const TENANT_MAX: usize = 1024;

/// A record that somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

struct Item {
    record: Record,
    time: SystemTime,
    /// Somebody waits for it, who is told under that number.
    ticket: Option<Ticket>,
}

struct State {
    waiting: VecDeque<Item>,
    refusals: usize,
    /// How many of each tenant's wait.
    tenants: BTreeMap<u64, usize>,
    /// Records that were not taken, or not written.
    lost: u64,
    /// What became of those that somebody waits for.
    answers: Vec<(Ticket, bool)>,
    next: u64,
    head: Head,
    /// What the trail goes on in.
    other: Option<Other>,
    /// Why the last record was not written.
    failed: Option<io::ErrorKind>,
    /// Records are being written.
    writes: bool,
    /// Behind which record the next one is, where another process has written to the file.
    behind: Option<Head>,
    closing: bool,
    closed: bool,
}

/// What the trail goes on in, with the last record of where it was.
struct Other {
    file: File,
    last: Record,
    ticket: Ticket,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in it is half done when a thread panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An audit trail that is written to.
pub struct Trail {
    shared: Arc<Shared>,
}

impl Trail {
    /// Goes on in `file`, which must be open for appending, and for reading where it is to continue a chain: otherwise a chain begins.
    /// `durable`: each batch of records is on storage before it counts as written. `ring` is called when an answer is there, or when
    /// writing begins or ceases to fail.
    pub fn start(mut file: File, durable: bool, ring: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (head, torn) = match resume(&mut file) {
            Ok(Some(found)) => found,
            // It has something else in it, or cannot be read: a line of its own begins there.
            Ok(None) => (Head::NONE, true),
            Err(_) => (Head::NONE, false),
        };
        let state = State {
            waiting: VecDeque::new(),
            refusals: 0,
            tenants: BTreeMap::new(),
            lost: 0,
            answers: Vec::new(),
            next: 0,
            head,
            other: None,
            failed: None,
            writes: false,
            behind: None,
            closing: false,
            closed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let writer = Writer { shared: Arc::clone(&shared), file, chain: Chain::behind(head), torn, durable };
        let thread = std::thread::Builder::new().name("audit".into()).stack_size(256 << 10);
        thread.spawn(move || writer.run(&ring))?;
        Ok(Self { shared })
    }

    /// Writes something down, soon. What there is no room for is counted. `tenant`: on whose behalf, by a number; 0: on nobody's in particular,
    /// who has no bound of his own.
    pub fn note(&self, tenant: u64, record: Record) {
        self.put(tenant, record, false);
    }

    /// The same; [`answers`](Self::answers) says what became of it. `None`: it was not taken.
    pub fn wait_for(&self, tenant: u64, record: Record) -> Option<Ticket> {
        self.put(tenant, record, true)
    }

    fn put(&self, tenant: u64, record: Record, wanted: bool) -> Option<Ticket> {
        let mut state = self.shared.lock();
        let refusal = matches!(record.event, Event::Refusal | Event::DataspaceRefused | Event::Dataspace);
        let of_tenant = state.tenants.get(&tenant).copied().unwrap_or(0);
        if state.waiting.len() >= WAITING_MAX
            || refusal && state.refusals >= REFUSALS_MAX
            || tenant != 0 && of_tenant >= TENANT_MAX
        {
            state.lost = state.lost.saturating_add(1);
            return None;
        }
        state.refusals += usize::from(refusal);
        state.tenants.insert(tenant, of_tenant + 1);
        let ticket = wanted.then(|| Ticket(state.next));
        state.next += 1;
        state.waiting.push_back(Item { record, time: SystemTime::now(), ticket });
        self.shared.changed.notify_all();
        ticket
    }

    /// What became of records that were waited for: whether each is written.
    pub fn answers(&self) -> Vec<(Ticket, bool)> {
        std::mem::take(&mut self.shared.lock().answers)
    }

    /// The last record.
    pub fn head(&self) -> Head {
        self.shared.lock().head
    }

    /// Why records are not written, if they are not.
    pub fn failed(&self) -> Option<io::ErrorKind> {
        self.shared.lock().failed
    }

    /// Goes on in another file, open for appending. `last` is the last record in the old one. [`answers`](Self::answers) says when it
    /// is so: from then on nothing is written to the old one.
    pub fn rotate(&self, file: File, last: Record) -> Ticket {
        let mut state = self.shared.lock();
        let ticket = Ticket(state.next);
        state.next += 1;
        if let Some(before) = state.other.replace(Other { file, last, ticket }) {
            state.answers.push((before.ticket, false));
        }
        self.shared.changed.notify_all();
        ticket
    }

    /// Waits until all is written that was said so far, so long at most. Whether it is.
    pub fn settle(&self, patience: std::time::Duration) -> bool {
        let state = self.shared.lock();
        let busy = |state: &mut State| {
            !state.waiting.is_empty() || state.writes || state.lost > 0 || state.other.is_some()
        };
        let waited = self.shared.changed.wait_timeout_while(state, patience, busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !busy(&mut state) && state.failed.is_none()
    }

    /// Goes on behind that record, which another process has written meanwhile. To be called before anything is said.
    pub fn go_on_behind(&self, head: Head) {
        let mut state = self.shared.lock();
        state.behind = Some(head);
        state.head = head;
    }

    /// Writes what there is, and no more after it. Waits for so long at most; whether all is written.
    pub fn close(&self, patience: std::time::Duration) -> bool {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, patience, |state| !state.closed);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.closed && state.failed.is_none()
    }
}

struct Writer {
    shared: Arc<Shared>,
    file: File,
    chain: Chain,
    /// Whether the file ends in the middle of a line.
    torn: bool,
    durable: bool,
}

impl Writer {
    fn run(mut self, ring: &dyn Fn()) {
        loop {
            let mut state = self.shared.lock();
            while state.waiting.is_empty() && state.lost == 0 && state.other.is_none() && !state.closing {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let items = std::mem::take(&mut state.waiting);
            state.refusals = 0;
            state.tenants.clear();
            let lost = std::mem::take(&mut state.lost);
            let other = state.other.take();
            let closing = state.closing;
            if let Some(head) = state.behind.take() {
                self.chain = Chain::behind(head);
            }
            state.writes = true;
            drop(state);

            let mut unwritten = lost;
            // (What is a pipe in a test has no name either, and is no file.)
            let mut failed = self.is_there().err().map(|error| error.kind());
            if lost > 0 && failed.is_none() {
                let record = Record { count: Some(lost), ..Record::of(Event::Lost) };
                match self.write(record, SystemTime::now()) {
                    Ok(()) => unwritten = 0,
                    Err(error) => failed = Some(error.kind()),
                }
            }
            let mut answers = Vec::new();
            for Item { record, time, ticket } in items {
                // What is said after a gap says so first.
                let done = if failed.is_none() {
                    self.write(record, time)
                } else {
                    Err(io::ErrorKind::Other.into())
                };
                if let Err(error) = &done {
                    failed.get_or_insert(error.kind());
                    unwritten = unwritten.saturating_add(1);
                }
                answers.extend(ticket.map(|ticket| (ticket, done.is_ok())));
            }
            if self.durable
                && failed.is_none()
                && let Err(error) = self.file.sync_data()
            {
                failed = Some(error.kind());
                answers.iter_mut().for_each(|(_, done)| *done = false);
            }
            if let Some(Other { file, last, ticket }) = other {
                // A failure here is no reason to stay: the new file may be the cure.
                let _ = self.write(last, SystemTime::now());
                let _ = self.file.sync_data();
                self.file = file;
                self.torn = false;
                answers.push((ticket, true));
            }
            let mut state = self.shared.lock();
            state.lost = state.lost.saturating_add(unwritten);
            let changed = state.failed != failed || !answers.is_empty();
            state.failed = failed;
            state.head = self.chain.head();
            state.writes = false;
            state.answers.append(&mut answers);
            // Nothing more comes; what could not be written stays so.
            let over = closing && state.waiting.is_empty();
            state.closed = over;
            self.shared.changed.notify_all();
            if failed.is_some() && !over {
                // Storage that is full may have room in a while.
                let pause = std::time::Duration::from_millis(200);
                drop(self.shared.changed.wait_timeout(state, pause));
            } else {
                drop(state);
            }
            if changed {
                ring();
            }
            if over {
                return;
            }
        }
    }

    /// A file that no name leads to any more keeps nothing.
    fn is_there(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    /// One record, whole or not at all: what is left of a line that could not be written is closed before the next.
    fn write(&mut self, record: Record, time: SystemTime) -> io::Result<()> {
        if self.torn {
            let mut chain = self.chain.clone();
            let line = format!("\n{}", chain.line(Record::of(Event::Torn), time));
            self.put(line.as_bytes())?;
            self.chain = chain;
        }
        let mut chain = self.chain.clone();
        let line = chain.line(record, time);
        self.put(line.as_bytes())?;
        self.chain = chain;
        Ok(())
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn |= bytes.len() < whole;
                    return Err(error);
                }
            }
        }
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
