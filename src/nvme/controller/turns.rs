//! What is done with what the machines say: the questions of one are put to the admin queue, its answers go to whoever asked, and
//! what the control role has to know becomes a [`ControllerEvent`].

use nvme_platform::{DeviceError, Time, error, info, warn};
use nvme_policy::LbaRange;

use super::super::event::{AbortOutcome, ControllerEvent, Failure, PairError, ResetReason, ScanError};
use super::super::info::NamespaceInfo;
use super::super::quiet::QueueQuiet;
use super::super::spec::command::{Completion, Status, admin};
use super::Controller;
use super::admin::{AdminQueue, Answer, DEPTH, Job, Patience};
use super::anomaly::Anomaly;
use super::bringup::{Step, Turn};
use super::notices::{News, Notice};
use super::pair_memory::recycle;
use super::pairs::{Effect, Granted};
use super::reads::{self, Ended};
use super::{namespaces, setup};

/// Rounds of asking and answering in one poll: a controller that answers at once is set up in few polls, one that never
/// stops is not listened to for ever.
const ROUNDS: u32 = 256;
/// Steps of the registers that one poll takes without waiting.
const STEPS: u32 = 8;

impl Controller {
    /// Does what can be done now.
    pub(super) fn advance(&mut self, now: Time) {
        self.advance_registers(now);
        if !self.bringup.listens() {
            return;
        }
        if self.is_ready() && self.later.is_due(now) {
            self.begin_look();
        }
        for _ in 0..ROUNDS {
            let progress = self.advance_admin(now) | self.advance_reads(now);
            if !self.bringup.listens() {
                // It became stuck, or is being stopped: registers have the word from now on.
                break;
            }
            if !progress {
                self.check_admin_deadlines(now);
                return;
            }
        }
        self.more = true;
    }

    fn advance_registers(&mut self, now: Time) {
        for _ in 0..STEPS {
            match self.bringup.step(&mut *self.device, self.pairs.next_generation(), now) {
                Step::Wait => return,
                Step::On => {}
                Step::Turn(turn) => self.turn(turn, now),
            }
        }
        self.more = true;
    }

    fn turn(&mut self, turn: Turn, now: Time) {
        match turn {
            Turn::Stopped(quiet) => {
                self.end_pending(Some(quiet));
                if let Err(why) = self.enable(now) {
                    self.fail(why, Some(quiet));
                }
            }
            Turn::Ready => self.begin_setup(None),
            Turn::Taken => self.take_left(now),
            Turn::Failed { why, quiet } => self.fail(why, quiet),
            Turn::Stuck(why) => self.stuck(why),
            Turn::Gone => {
                error!("controller {}: {}", self.index, DeviceError::Gone);
                self.die(None);
                self.events.push_back(ControllerEvent::Gone);
            }
            Turn::ShutDown { clean } => self.is_down(clean),
        }
    }

    fn enable(&mut self, now: Time) -> Result<(), Failure> {
        // What somebody else left is of no use by now.
        self.left_memory = None;
        if self.left.take().is_some()
            && let Some(admin) = self.admin.take()
        {
            admin.retire(self.device.pool());
        }
        let places = match &self.admin {
            Some(admin) => admin.places(),
            None => {
                let (patience, stride) = (self.patience(), self.bringup.stride());
                let queue = AdminQueue::new(self.device.pool(), patience, stride);
                self.admin.insert(queue.map_err(Failure::Memory)?).places()
            }
        };
        self.bringup.enable(&mut *self.device, places, now).map_err(Failure::Device)
    }

    fn patience(&self) -> Patience {
        Patience { admin: self.options.admin_timeout, abort: self.options.abort_timeout }
    }

    fn begin_setup(&mut self, left: Option<u16>) {
        let version = self.bringup.version(&mut *self.device);
        let job = self.setup.begin(version, self.bringup.cap(), left);
        self.ask(job);
    }

    /// It runs as somebody else left it: goes on with the admin queue, deletes the others, and then asks what it is.
    fn take_left(&mut self, now: Time) {
        let (Some(left), Some(memory)) = (&self.left, self.left_memory.take()) else {
            return self.anomaly(Anomaly::NoAdminQueue);
        };
        let (patience, stride) = (self.patience(), self.bringup.stride());
        let admin = AdminQueue::over(memory, self.device.pool(), patience, stride);
        let taken = admin.map_err(Failure::Memory).and_then(|admin| {
            if self.admin.insert(admin).resume(left) { Ok(()) } else { Err(Failure::Anomaly) }
        });
        match taken {
            Ok(()) => self.delete_left(now),
            Err(why) => self.bringup.stop(&mut *self.device, why, now),
        }
    }

    /// Deletes the next of the queues that somebody else left.
    fn delete_left(&mut self, now: Time) {
        let Some(left) = &mut self.left else {
            return self.bringup.stop(&mut *self.device, Failure::Anomaly, now);
        };
        match left.live.pop() {
            Some(id) => self.ask(Job::DeleteLeftSq { id }),
            None => {
                let pairs = left.pairs;
                info!("controller {}: goes on without a reset", self.index);
                self.begin_setup(Some(pairs));
            }
        }
    }

    fn left_deleted(&mut self, opcode: u8, status: Status, next: Option<Job>, now: Time) {
        match next {
            _ if !status.ok() => {
                let why = Failure::Admin { opcode, status: status.0 };
                self.bringup.stop(&mut *self.device, why, now);
            }
            Some(job) => self.ask(job),
            None => self.delete_left(now),
        }
    }

    /// Submits admin commands and takes answers. True when there was any.
    fn advance_admin(&mut self, now: Time) -> bool {
        let submitted = match &mut self.admin {
            Some(admin) => admin.submit(self.device.registers(), now),
            None => Err(Anomaly::NoAdminQueue),
        };
        self.check(submitted);
        let mut any = false;
        for _ in 0..DEPTH {
            if !self.bringup.listens() {
                // Being stopped: what was asked ends there.
                break;
            }
            match self.admin.as_mut().map_or(Ok(None), |admin| admin.pop(now)) {
                Ok(None) => break,
                Ok(Some(answer)) => self.answered(answer, now),
                Err(what) => self.anomaly(what),
            }
            any = true;
        }
        if let Some(admin) = &mut self.admin {
            admin.finish(self.device.registers());
        }
        any
    }

    fn answered(&mut self, answer: Answer, now: Time) {
        let Answer { job, completion, data } = answer;
        let status = completion.status;
        match job {
            Job::IdentifyController => {
                let next = self.setup.identified(&completion, &data, self.bringup.is_reset());
                if let Some(admin) = &mut self.admin {
                    admin.tune(self.setup.aborts(), self.setup.delays());
                }
                self.set_up(next, now);
            }
            Job::IdentifyNvm => {
                let next = self.setup.identified_nvm(&completion, &data);
                self.set_up(next, now);
            }
            Job::NumberOfQueues { pairs } => {
                let next = self.setup.queues_granted(pairs, &completion);
                self.set_up(next, now);
            }
            Job::HostBehavior => {
                let next = self.setup.behavior_set(&completion);
                self.set_up(next, now);
            }
            Job::WriteCacheOn => self.set_up(self.setup.write_cache_set(&completion), now),
            Job::EventConfiguration { .. } => self.set_up(self.setup.events_configured(&completion), now),
            Job::DoorbellBuffers { .. } => {
                self.pairs.doorbells_buffered(status);
                self.known();
            }
            Job::NamespaceList { after } => {
                let next = self.namespaces.listed(after, &completion, &data);
                self.look(next);
            }
            Job::IdentifyNamespace { nsid } => {
                let next = self.namespaces.identified(nsid, &completion, &data);
                self.look(next);
            }
            Job::Descriptors { nsid } => {
                let next = self.namespaces.described(nsid, &completion, &data);
                self.look(next);
            }
            // It is looked at once it is known what it is.
            Job::AsyncEvent if self.bringup.is_setting_up() => self.early.push(completion),
            Job::AsyncEvent => self.told(&completion),
            Job::Log { id, asked } => {
                if !asked {
                    self.ask(Job::AsyncEvent);
                }
                match self.notices.log(id, asked, &completion, &data) {
                    News::Nothing => {}
                    News::Namespaces => self.begin_look(),
                    News::Smart(smart) => {
                        self.smart = Some(smart);
                        self.events.push_back(ControllerEvent::Smart(smart));
                    }
                }
            }
            Job::CreateCq { id, .. } => {
                let effect = self.pairs.cq_created(self.device.pool(), id, status);
                self.pair_step(effect);
            }
            Job::CreateSq { id, .. } => {
                let effect = self.pairs.sq_created(&mut *self.device, id, status, now);
                self.pair_step(effect);
            }
            Job::DeleteSq { id } => {
                let effect = self.pairs.sq_deleted(id, status);
                self.pair_step(effect);
            }
            Job::DeleteCq { id } => {
                let effect = self.pairs.cq_deleted(self.device.pool(), id, status);
                self.pair_step(effect);
            }
            Job::DeleteLeftSq { id } => {
                self.left_deleted(admin::DELETE_SQ, status, Some(Job::DeleteLeftCq { id }), now);
            }
            Job::DeleteLeftCq { .. } => self.left_deleted(admin::DELETE_CQ, status, None, now),
            Job::Abort { pair, cid } => {
                // Bit 0: the command was not aborted (Base 5.1).
                let aborted = status.ok() && completion.dw0 & 1 == 0;
                let outcome = if aborted { AbortOutcome::Aborted } else { AbortOutcome::NotAborted };
                self.events.push_back(ControllerEvent::Aborted { pair, cid, outcome });
            }
        }
    }

    /// It told something unasked.
    fn told(&mut self, completion: &Completion) {
        match self.notices.came(completion) {
            Notice::Refused => {}
            Notice::Internal => self.stuck(ResetReason::Internal),
            Notice::Log(id) => self.ask(Job::Log { id, asked: false }),
        }
    }

    fn set_up(&mut self, next: setup::Next, now: Time) {
        match next {
            setup::Next::Ask(job) => self.ask(job),
            setup::Next::Fail(why) => self.bringup.stop(&mut *self.device, why, now),
            setup::Next::Known => match self.buffer_doorbells() {
                Some(job) => self.ask(job),
                None => self.known(),
            },
        }
    }

    /// What the controller is told of doorbells in memory, where the home wants them and it offers that.
    fn buffer_doorbells(&mut self) -> Option<Job> {
        if !self.setup.doorbell_buffers() || !self.device.doorbell_buffers() {
            return None;
        }
        let (pairs, stride) = (self.setup.info().pairs, self.bringup.stride());
        self.pairs.buffer_doorbells(self.device.pool(), pairs, stride)
    }

    /// All is known of it but its namespaces.
    fn known(&mut self) {
        let quirks = *self.setup.quirks();
        self.pairs.set_up(Granted {
            pairs: self.setup.info().pairs,
            depth: if quirks.one_at_a_time { 2 } else { self.bringup.mqes().saturating_add(1) },
            vectors: if quirks.one_vector { 1 } else { u16::MAX },
            medium: quirks.medium_priority,
            stride: self.bringup.stride(),
            caps: self.setup.caps(),
        });
        self.bringup.set_delay(quirks.delay_after_disable);
        self.bringup.set_shutdown_wait(self.setup.shutdown_wait());
        self.begin_look();
    }

    /// Looks at all namespaces; once more afterwards, when that is going on.
    pub(super) fn begin_look(&mut self) {
        if let Some(next) = self.namespaces.begin(self.setup.rules()) {
            self.look(Ok(next));
        }
    }

    fn look(&mut self, next: Result<namespaces::Next, Anomaly>) {
        match next {
            Ok(namespaces::Next::Ask(job)) => self.ask(job),
            Ok(namespaces::Next::Done { whole }) => self.looked(whole),
            Err(what) => self.anomaly(what),
        }
    }

    fn looked(&mut self, whole: bool) {
        let all = self.namespaces.all();
        let there = |place: &LbaRange, info: &NamespaceInfo| {
            info.namespace() == place.namespace()
                && info.block_size() == place.block_size()
                && place.first() + place.blocks() <= info.blocks()
        };
        let ended = self.reads.namespaces_changed(|place| all.iter().any(|info| there(place, info)));
        self.tell_reads(ended);
        if !whole {
            self.later.failed(self.now);
        }
        if self.bringup.is_running() {
            self.events.push_back(ControllerEvent::NamespacesChanged);
        } else {
            self.bringup.run();
            self.left = None;
            // Of one that was left running some are there already.
            let early = core::mem::take(&mut self.early);
            let there = early.len() + self.admin.as_ref().map_or(0, AdminQueue::events);
            for _ in there..self.setup.events().into() {
                self.ask(Job::AsyncEvent);
            }
            early.into_iter().for_each(|completion| self.told(&completion));
            self.events.push_back(match self.bringup.quiet().filter(|_| self.bringup.is_reset()) {
                Some(quiet) => ControllerEvent::Reset { quiet },
                None => ControllerEvent::Ready,
            });
        }
        if self.namespaces.take_again() {
            self.begin_look();
        }
    }

    fn pair_step(&mut self, effect: Result<Effect, Anomaly>) {
        match effect {
            Ok(effect) => self.effect(effect),
            Err(what) => self.anomaly(what),
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Ask(job) => self.ask(job),
            Effect::Say(event) => self.events.push_back(event),
            Effect::Stuck(why) => self.stuck(why),
            Effect::ReadsMade(pair) => self.reads.made(pair),
            Effect::ReadsNotMade => {
                let ended = self.reads.not_made();
                self.tell_reads(ended);
            }
            Effect::ReadsDeleted => {
                if let Some(memory) = self.reads.deleted() {
                    recycle(self.device.pool(), memory);
                }
            }
        }
    }

    /// Goes on with the control role's own reads. True when anything happened.
    fn advance_reads(&mut self, now: Time) -> bool {
        if !self.is_ready() {
            return false;
        }
        match self.reads.step(self.pairs.is_single(), now) {
            reads::Step::Wait => return false,
            reads::Step::On => {}
            reads::Step::Ended(Ended { token, result }) => {
                if matches!(result, Err(ScanError::Failed(status)) if Status(status).is_transient()) {
                    self.later.failed(now);
                }
                self.events.push_back(ControllerEvent::ScanRead { token, result });
            }
            reads::Step::Make => match self.pairs.create_for_reads(&mut *self.device) {
                Ok(job) => self.ask(job),
                Err(PairError::None | PairError::Memory(_)) => {
                    let ended = self.reads.not_made();
                    self.tell_reads(ended);
                }
                Err(_) => self.anomaly(Anomaly::NoReadsPair),
            },
            reads::Step::Delete => match self.pairs.delete_reads() {
                Ok(job) => self.ask(job),
                Err(what) => self.anomaly(what),
            },
        }
        true
    }

    fn tell_reads(&mut self, ended: impl IntoIterator<Item = Ended>) {
        let event = |Ended { token, result }| ControllerEvent::ScanRead { token, result };
        self.events.extend(ended.into_iter().map(event));
    }

    pub(super) fn end_reads(&mut self) {
        let ended = self.reads.end();
        self.tell_reads(ended);
    }

    fn check_admin_deadlines(&mut self, now: Time) {
        for _ in 0..DEPTH {
            let Some((job, opcode)) = self.admin.as_mut().and_then(|admin| admin.expired(now)) else {
                return;
            };
            match job {
                Job::Abort { pair, cid } => {
                    self.events.push_back(ControllerEvent::Aborted {
                        pair,
                        cid,
                        outcome: AbortOutcome::Unanswered,
                    });
                }
                _ if self.bringup.is_setting_up() => {
                    self.bringup.stop(&mut *self.device, Failure::AdminTimeout { opcode }, now);
                }
                Job::DeleteSq { id } if !self.pairs.is_for_reads(id) => {
                    self.stuck(ResetReason::DeleteFailed { id })
                }
                _ => self.stuck(ResetReason::AdminTimeout { opcode }),
            }
            if !self.bringup.listens() {
                self.more = true;
                return;
            }
        }
    }

    /// Asks in its turn.
    pub(super) fn ask(&mut self, job: Job) {
        let asked = match &mut self.admin {
            Some(admin) => admin.ask(job),
            None => Err(Anomaly::NoAdminQueue),
        };
        self.check(asked);
    }

    fn check(&mut self, result: Result<(), Anomaly>) {
        if let Err(what) = result {
            self.anomaly(what);
        }
    }

    /// Something happened that cannot happen: what is known of the controller is not so.
    fn anomaly(&mut self, what: Anomaly) {
        self.anomalies = self.anomalies.saturating_add(1);
        error!("controller {}: this cannot be: {what} ({} so far)", self.index, self.anomalies);
        if self.bringup.is_setting_up() {
            self.bringup.stop(&mut *self.device, Failure::Anomaly, self.now);
        } else {
            self.stuck(ResetReason::Anomaly);
        }
    }

    /// Says once that only a reset helps.
    pub(super) fn stuck(&mut self, why: ResetReason) {
        if self.bringup.stick() {
            warn!("controller {}: needs a reset: {why}", self.index);
            self.events.push_back(ControllerEvent::ResetNeeded(why));
        }
    }

    /// Ends everything that was asked for and will have no answer.
    fn end_pending(&mut self, quiet: Option<QueueQuiet>) {
        if let Some(admin) = &mut self.admin {
            let aborted =
                |(pair, cid)| ControllerEvent::Aborted { pair, cid, outcome: AbortOutcome::Unanswered };
            self.events.extend(admin.take_aborts().into_iter().map(aborted));
            if quiet.is_some() {
                admin.clear();
            }
        }
        self.early.clear();
        self.namespaces.forget();
        self.later.forget();
        self.end_reads();
        for effect in self.pairs.end(self.device.pool(), quiet) {
            self.effect(effect);
        }
    }

    fn fail(&mut self, why: Failure, quiet: Option<QueueQuiet>) {
        error!("controller {}: {why}", self.index);
        self.die(quiet);
        self.events.push_back(ControllerEvent::Failed { why, quiet });
    }

    pub(super) fn die(&mut self, quiet: Option<QueueQuiet>) {
        self.bringup.die(quiet);
        self.end_pending(quiet);
    }

    /// A shutdown ended.
    pub(super) fn is_down(&mut self, clean: bool) {
        if !clean {
            warn!("controller {}: did not confirm its shutdown in time", self.index);
        }
        // What may still be going on reaches no memory any more.
        let _ = self.device.bus().master(false);
        self.die(None);
        self.events.push_back(ControllerEvent::ShutDown { clean });
    }
}
