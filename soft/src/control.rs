//! The register file and the admin queue (NVM Express Base 1.4, 3.1 and 7.6): control's side of the controller.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use nvme_platform::{PAGE, Table, Time};
use zerocopy::little_endian::{U16, U32};

use crate::admin::{Answer, Events, Features, Logs, Nature};
use crate::admin_queue::{AdminQueue, completion};
use crate::faulty::{self, Abort, Action};
use crate::gate::Stuck;
use crate::queue::{Poster, SubmissionQueue};
use crate::shared::{Shared, Trouble};
use crate::shutdown::Shutdown;
use crate::wire::{Cap, Cc, Csts, Sqe, Status, VERSION, admin, reg};

/// What only control touches.
pub(crate) struct Control {
    pub(crate) nature: Nature,
    pub(crate) cc: Cc,
    csts: Csts,
    /// AQA, ASQ, ACQ.
    attributes: u32,
    submission: u64,
    completion: u64,
    /// While the controller is enabled.
    admin: Option<AdminQueue>,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) logs: Logs,
    /// CC.EN went away while commands were under way: CSTS.RDY goes with the last of them.
    disabling: bool,
    /// The flushes of a shutdown.
    shutdown: Option<Shutdown>,
}

impl Control {
    pub(crate) fn new(nature: Nature) -> Self {
        Self {
            features: Features::new(&nature),
            nature,
            cc: Cc::new(),
            csts: Csts::new(),
            attributes: 0,
            submission: 0,
            completion: 0,
            admin: None,
            events: Events::default(),
            logs: Logs::default(),
            disabling: false,
            shutdown: None,
        }
    }

    /// The distance between two doorbells, in bytes.
    pub(crate) fn stride(&self) -> u32 {
        4 << self.nature.doorbell_stride
    }

    fn capabilities(&self) -> u64 {
        Cap::new()
            .with_mqes(self.nature.mqes)
            .with_contiguous(true)
            .with_timeout(self.nature.timeout)
            .with_stride(self.nature.doorbell_stride)
            .with_command_sets(1)
            .into_bits()
    }

    /// The length of the BAR: the doorbells of all queues, in whole pages.
    fn bar(&self) -> u32 {
        let doorbells = 2 * (u32::from(self.nature.queues) + 1) * self.stride();
        (reg::DOORBELLS + doorbells).next_multiple_of(PAGE as u32)
    }

    pub(crate) fn read(&mut self, shared: &Shared, offset: u32) -> u32 {
        self.absorb(shared);
        if !offset.is_multiple_of(4) || offset >= self.bar() {
            return u32::MAX;
        }
        let half = |value: u64, at: u32| if offset == at { value as u32 } else { (value >> 32) as u32 };
        match offset & !4 {
            reg::CAP => half(self.capabilities(), reg::CAP),
            reg::ASQ => half(self.submission, reg::ASQ),
            reg::ACQ => half(self.completion, reg::ACQ),
            _ => match offset {
                reg::VS => VERSION,
                reg::INTMS | reg::INTMC => shared.masked(),
                reg::CC => self.cc.into_bits(),
                reg::CSTS => {
                    let stuck = shared.faults.as_ref().and_then(|f| f.ready());
                    self.csts.with_ready(stuck.unwrap_or(self.csts.ready())).into_bits()
                }
                reg::AQA => self.attributes,
                _ => 0,
            },
        }
    }

    pub(crate) fn write(&mut self, shared: &Shared, offset: u32, value: u32) {
        self.absorb(shared);
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            reg::INTMS => shared.mask(value),
            reg::INTMC => shared.unmask(value),
            reg::CC => self.configure(shared, Cc::from_bits(value)),
            reg::AQA if !self.cc.enable() => self.attributes = value & 0x0fff_0fff,
            reg::ASQ if !self.cc.enable() => self.submission = low(self.submission) & !0xfff,
            0x2c if !self.cc.enable() => self.submission = high(self.submission),
            reg::ACQ if !self.cc.enable() => self.completion = low(self.completion) & !0xfff,
            0x34 if !self.cc.enable() => self.completion = high(self.completion),
            reg::DOORBELLS.. => self.doorbell(shared, offset - reg::DOORBELLS, value),
            _ => {}
        }
    }

    /// A write to CC: enabling, disabling, shutting down (3.1.5, 7.6).
    fn configure(&mut self, shared: &Shared, new: Cc) {
        let old = core::mem::replace(&mut self.cc, new);
        match (old.enable(), new.enable()) {
            (false, true) => self.enable(shared),
            // An engine that does not come out keeps RDY as it is: the driver will not take its memory for free.
            (true, false) => {
                match self.disable(shared) {
                    Ok(true) => {}
                    Ok(false) => self.disabling = true,
                    Err(Stuck) => self.csts.set_fatal(true),
                }
                return;
            }
            _ => {}
        }
        if new.shutdown() != 0 && old.shutdown() == 0 {
            self.csts.set_shutdown(1);
            self.shutdown = Some(Shutdown::begin(shared));
            self.poll_shutdown();
        } else if new.shutdown() == 0 {
            self.csts.set_shutdown(0);
            self.shutdown = None;
        }
    }

    fn poll_shutdown(&mut self) {
        if let Some(shutdown) = &mut self.shutdown
            && let Some(flushed) = shutdown.poll()
        {
            self.csts.set_shutdown(if flushed { 2 } else { 1 });
            self.shutdown = None;
        }
    }

    fn enable(&mut self, shared: &Shared) {
        let cc = self.cc;
        let (sq_size, cq_size) = ((self.attributes & 0xfff) + 1, (self.attributes >> 16 & 0xfff) + 1);
        let good = cc.command_set() == 0
            && cc.page_size() == 0
            && cc.arbitration() == 0
            && sq_size >= 2
            && cq_size >= 2
            && !self.csts.fatal()
            && !self.disabling;
        if !good {
            self.csts.set_fatal(true);
            return;
        }
        let _ = shared.take_troubles();
        self.admin = Some(AdminQueue {
            sq_size,
            cq_size,
            sq_at: self.submission,
            cq_at: self.completion,
            head: 0,
            tail: 0,
            cq_head: 0,
            poster: Poster::default(),
            held: Vec::new(),
            waiting: Vec::new(),
        });
        self.csts.set_ready(true);
    }

    /// Controller reset, once no command is under way any more (else: false): queues go, features are as at first; AQA, ASQ and ACQ stay (7.3.2).
    fn disable(&mut self, shared: &Shared) -> Result<bool, Stuck> {
        if !self.close_queues(shared)? {
            return Ok(false);
        }
        self.disabling = false;
        self.shutdown = None;
        self.admin = None;
        self.features = Features::new(&self.nature);
        self.events = Events::default();
        self.csts = Csts::new();
        let _ = shared.take_troubles();
        let write_back = self.nature.write_cache;
        shared.change(|world| world.write_back = write_back);
        Ok(true)
    }

    /// All registers as after power-up.
    pub(crate) fn reset(&mut self, shared: &Shared) -> Result<(), Stuck> {
        if self.disable(shared) != Ok(true) {
            self.csts.set_fatal(true);
            return Err(Stuck);
        }
        self.cc = Cc::new();
        (self.attributes, self.submission, self.completion) = (0, 0, 0);
        shared.unmask(u32::MAX);
        Ok(())
    }

    /// Whether it is enabled, and was not told to shut down.
    pub(crate) fn is_in_use(&self) -> bool {
        self.csts.ready() && self.csts.shutdown() != 2
    }

    /// Fatal: nothing goes on until a reset.
    pub(crate) fn fail(&mut self, shared: &Shared) {
        self.csts.set_fatal(true);
        self.freeze(shared);
    }

    /// Lets no engine in any more, without waiting for those inside.
    pub(crate) fn freeze(&mut self, shared: &Shared) {
        for slot in shared.queues.lock().iter() {
            if let Some(sq) = &slot.sq {
                sq.gate.close();
            }
        }
    }

    /// Takes in what engines and doorbells had to say, and goes on with admin commands that a rule held up.
    pub(crate) fn absorb(&mut self, shared: &Shared) {
        let troubles = shared.take_troubles();
        if troubles & Trouble::Fatal as u32 != 0 {
            self.fail(shared);
        }
        if troubles & Trouble::BadDoorbell as u32 != 0 {
            self.events.error(0);
        }
        if troubles & Trouble::BadDoorbellValue as u32 != 0 {
            self.events.error(1);
        }
        if self.disabling && self.disable(shared).is_err() {
            self.csts.set_fatal(true);
        }
        self.poll_shutdown();
        let held = |q: &AdminQueue| !q.held.is_empty() && shared.faults.is_some() || !q.waiting.is_empty();
        let due = self.admin.as_ref().is_some_and(held);
        if troubles != 0 || due {
            self.process(shared);
        }
    }

    /// Error information 3: persistent internal error (5.2).
    pub(crate) fn internal_error(&mut self, shared: &Shared) {
        self.events.error(3);
        self.process(shared);
    }

    pub(crate) fn namespace_changed(&mut self, shared: &Shared, nsid: u32) {
        self.logs.namespace_changed(nsid);
        if self.features.namespace_notices() {
            self.events.namespace_changed();
        }
        self.process(shared);
    }

    fn doorbell(&mut self, shared: &Shared, offset: u32, value: u32) {
        let stride = self.stride();
        if !offset.is_multiple_of(stride) || offset >= self.bar() - reg::DOORBELLS {
            return;
        }
        let (index, value) = (offset / stride, value & 0xffff);
        let (queue, completion) = (index / 2, index % 2 == 1);
        let good = if queue == 0 {
            let Some(admin) = &mut self.admin else { return };
            let size = if completion { admin.cq_size } else { admin.sq_size };
            if value < size {
                *(if completion { &mut admin.cq_head } else { &mut admin.tail }) = value;
            }
            Some(value < size)
        } else {
            let queues = shared.queues.lock();
            let slot = queues.get(queue as usize);
            if completion {
                slot.and_then(|s| s.cq.as_ref()).map(|cq| cq.ring(value))
            } else {
                slot.and_then(|s| s.sq.as_ref()).map(|sq| sq.ring(value))
            }
        };
        match good {
            Some(true) => {}
            Some(false) => shared.trouble(Trouble::BadDoorbellValue),
            None => shared.trouble(Trouble::BadDoorbell),
        }
        self.absorb(shared);
        if queue == 0 { self.process(shared) } else { shared.wake() }
    }

    /// Runs admin commands, as far as completions fit, and delivers events.
    fn process(&mut self, shared: &Shared) {
        if self.csts.fatal() || !self.csts.ready() {
            return;
        }
        let Some(mut queue) = self.admin.take() else { return };
        let posted = self.serve(shared, &mut queue);
        self.admin = Some(queue);
        match posted {
            Some(0) => {}
            Some(_) => shared.interrupt(Some(0)),
            None => {
                shared.counters.fault();
                self.fail(shared);
            }
        }
    }

    /// As [`process`](Self::process); says how many completions were posted. `None`: the queue's memory is gone.
    fn serve(&mut self, shared: &Shared, queue: &mut AdminQueue) -> Option<u32> {
        let (_, view) = shared.view();
        if !view.mastering {
            return Some(0);
        }
        let entries = view.map.ring(queue.sq_at, queue.sq_size as usize * size_of::<Sqe>(), false)?;
        let ring = view.map.entries(queue.cq_at, queue.cq_size)?;
        let now = Time::from_nanos(shared.now.load(Ordering::Relaxed));
        let mut posted = 0;
        // Each turn posts, or fetches; the driver cannot move the tail meanwhile. A command sees the world as the one
        // before it left it.
        let mut waiting = core::mem::take(&mut queue.waiting);
        while queue.poster.room(queue.cq_size, queue.cq_head) {
            let due = waiting.pop().or_else(|| faulty::take_due(&mut queue.held, now).map(|(sqe, _)| sqe));
            let (sqe, action) = match due {
                Some(sqe) => (sqe, None),
                None if queue.head != queue.tail => {
                    let sqe = entries.read_value::<Sqe>(queue.head as usize * size_of::<Sqe>()).ok()?;
                    queue.head = if queue.head + 1 >= queue.sq_size { 0 } else { queue.head + 1 };
                    (sqe, shared.faults.as_ref().and_then(|f| f.decide(0, sqe.opcode)))
                }
                None => break,
            };
            let answer = match action {
                Some(Action::Hang) => {
                    faulty::hold(&mut queue.held, sqe, None, Abort::Ends);
                    continue;
                }
                Some(Action::Delay(time)) => {
                    faulty::hold(&mut queue.held, sqe, Some(now + time), Abort::Ends);
                    continue;
                }
                Some(Action::Fail(status)) => Err(status),
                _ if sqe.opcode == admin::ABORT => self.abort(shared, queue, &ring, &mut posted, &sqe),
                _ => self.execute(shared, &shared.view().1, &sqe),
            };
            let (result, status) = match answer {
                Ok(Answer::Later) => continue,
                Ok(Answer::Again) => {
                    queue.waiting.push(sqe);
                    continue;
                }
                _ if action == Some(Action::Drop) => continue,
                Ok(Answer::Done(result)) => (result, Status::SUCCESS),
                Err(status) => {
                    self.logs.error(0, sqe.cid.get(), status, sqe.nsid.get());
                    if status == Status::DATA_TRANSFER {
                        shared.counters.fault();
                    }
                    (0, status)
                }
            };
            let mut cqe = completion(queue.head, sqe.cid.get(), status);
            cqe.result = U32::new(result);
            if let Some(Action::Forge(cids)) = &action {
                for cid in cids {
                    queue.post(&ring, &mut posted, &completion(queue.head, *cid, Status::SUCCESS));
                }
            }
            if let Some(action) = &action {
                faulty::spoil(action, &mut cqe);
            }
            queue.post(&ring, &mut posted, &cqe);
            if action == Some(Action::Duplicate) {
                queue.post(&ring, &mut posted, &cqe);
            }
        }
        queue.waiting.append(&mut waiting);
        while queue.poster.room(queue.cq_size, queue.cq_head) {
            let Some((cid, result)) = self.events.next() else { break };
            let mut cqe = completion(queue.head, cid, Status::SUCCESS);
            cqe.result = U32::new(result);
            queue.post(&ring, &mut posted, &cqe);
        }
        Some(posted)
    }

    /// Abort (5.1): finds what a rule holds up, and waiting event requests. Dword 0 bit 0: not found.
    fn abort(
        &mut self,
        shared: &Shared,
        queue: &mut AdminQueue,
        ring: &Table<[u64; 2]>,
        posted: &mut u32,
        sqe: &Sqe,
    ) -> Result<Answer, Status> {
        let (id, cid) = (sqe.dword(10) as u16, (sqe.dword(10) >> 16) as u16);
        let found = if id == 0 {
            let held = queue.held.iter().position(|h| h.sqe.cid.get() == cid);
            // Two completions are to be posted: the command's, and the Abort's.
            let there = (held.is_some() || self.events.waits(cid)) && queue.room_for_two();
            if there {
                match held {
                    Some(index) => drop(queue.held.remove(index)),
                    None => self.events.abort(cid),
                }
                queue.post(ring, posted, &completion(queue.head, cid, Status::ABORTED));
            }
            there
        } else {
            let sq = shared.queues.lock().get(usize::from(id)).and_then(|s| s.sq.clone());
            sq.is_some_and(|sq| {
                let Ok(mut inside) = sq.gate.pass(shared.outside.pause) else { return false };
                let Some(index) = faulty::aborts(&mut inside.held, cid) else {
                    return false;
                };
                let there = self.post_io(shared, &sq, cid, Status::ABORTED);
                if there {
                    inside.held.remove(index);
                }
                there
            })
        };
        Ok(Answer::Done(u32::from(!found)))
    }

    /// Posts a completion on an I/O queue; its gate was passed.
    fn post_io(&self, shared: &Shared, sq: &SubmissionQueue, cid: u16, status: Status) -> bool {
        let (cq, (_, view)) = (&sq.completions, shared.view());
        let Some(ring) = view.map.entries(cq.at, cq.size) else { return false };
        let mut poster = cq.poster.lock();
        let room = poster.room(cq.size, cq.head.load(Ordering::Acquire));
        if room {
            let mut cqe = completion(sq.head.load(Ordering::Relaxed), cid, status);
            cqe.sq_id = U16::new(sq.id);
            poster.post(&ring, cq.size, &cqe);
            drop(poster);
            shared.interrupt(cq.vector);
        }
        room
    }

    pub(crate) fn forge(&mut self, shared: &Shared, queue: u16, cid: u16, status: Status) -> bool {
        if queue > 0 {
            let sq = shared.queues.lock().get(usize::from(queue)).and_then(|s| s.sq.clone());
            return sq.is_some_and(|sq| {
                let inside = sq.gate.pass(shared.outside.pause);
                inside.is_ok() && !sq.gate.is_closed() && self.post_io(shared, &sq, cid, status)
            });
        }
        let (_, view) = shared.view();
        let Some(admin) = &mut self.admin else { return false };
        let Some(ring) = view.map.entries(admin.cq_at, admin.cq_size) else { return false };
        let mut posted = 0;
        admin.post(&ring, &mut posted, &completion(admin.head, cid, status));
        if posted > 0 {
            shared.interrupt(Some(0));
        }
        posted > 0
    }
}
