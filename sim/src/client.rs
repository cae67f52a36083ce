//! What clients' machines say, and what an honest one makes of the answers.

use nvme_testkit::feature;

use crate::driver::{QUEUES, REGIONS, Share};
use crate::judge::Judge;
use crate::judge::court::Arena;
use crate::messages::Message;
use crate::seat::Phase;
use crate::step::Wish;
use crate::world::World;

/// vhost-user's own feature bit.
const PROTOCOL: u64 = feature::PROTOCOL_FEATURES;
/// What drivers know.
const KNOWN: u64 = feature::VERSION_1
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::FLUSH
    | feature::CONFIG_WCE
    | feature::DISCARD
    | feature::WRITE_ZEROES
    | feature::MQ;

impl World {
    /// Whether anything is a reason for a seat's requests to fail, or to take long.
    pub(crate) fn is_troubled(&self, at: usize) -> bool {
        let seat = &self.seats[at];
        seat.lost || seat.device.is_none_or(|d| self.machines[d.controller].troubled)
    }

    /// The client of a seat takes the answer that it waits for, or says the next thing.
    pub(crate) fn talk(&mut self, at: usize) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let (clients, hostile) = (seat.clients, seat.place.hostile);
        let (Some(conn), Some(driver)) = (&mut seat.conn, &seat.driver) else { return false };
        if let Some((rest, files)) = conn.rest.take_if(|_| self.frozen.is_none() && !conn.taking_up) {
            self.feed(at, &[&rest], 0, &files);
            return true;
        }
        if let Some(message) = conn.waiting {
            let out = conn.machine.outgoing();
            if out.is_empty() {
                return false;
            }
            let payload = out.get(12..).unwrap_or_default().to_vec();
            let all = out.len();
            conn.machine.sent(all);
            conn.waiting = None;
            self.answered(at, message, &payload);
            return true;
        }
        if conn.machine.stage() == nvme_linux::vhost::Stage::Working {
            return false;
        }
        if self.frozen.is_some() || conn.taking_up {
            return false;
        }
        let Some(message) = conn.todo.pop_front() else { return false };
        if !hostile && message.ring().is_some_and(|ring| driver.queues.get(ring).is_some_and(|q| q.broken)) {
            // Of a ring that broke its driver knows no more where to go on: it resets its device.
            return true;
        }
        if message.is_answered() {
            conn.waiting = Some(message);
        }
        let features = driver.features | PROTOCOL;
        let (header, payload) = message.bytes(driver, features);
        self.before(at, message);
        let files = message.regions();
        if clients.is_multiple_of(3) && !payload.is_empty() {
            // Some send a message in two pieces.
            self.feed(at, &[&header], files.len(), &files);
            if let Some(conn) = &mut self.seats[at].conn {
                conn.rest = Some((payload, files));
            }
            return true;
        }
        self.feed(at, &[&header, &payload], files.len(), &files);
        true
    }

    /// A message is about to be said.
    fn before(&mut self, at: usize, message: Message) {
        let Some(driver) = &mut self.seats[at].driver else { return };
        match message {
            Message::Add(region) => {
                let memory = &mut driver.memory[usize::from(region) % REGIONS];
                if memory.share == Share::Out {
                    memory.share = Share::Adding;
                }
            }
            Message::Remove(region) => self.takes_back(at, usize::from(region) % REGIONS),
            Message::Table(mask) => {
                for region in 0..REGIONS {
                    let Some(driver) = &mut self.seats[at].driver else { return };
                    let wanted = mask >> region & 1 == 1;
                    match driver.memory[region].share {
                        Share::Out if wanted => driver.memory[region].share = Share::Adding,
                        Share::In if !wanted => self.takes_back(at, region),
                        _ => {}
                    }
                }
            }
            Message::Reset | Message::OwnerAgain => {
                driver.queues.iter_mut().for_each(|q| q.running = false);
                self.seats[at].excuse();
            }
            Message::GetBase(queue) => {
                let queue = &mut driver.queues[usize::from(queue)];
                (queue.running, queue.ready) = (false, false);
            }
            Message::Kick(queue) => driver.queues[usize::from(queue)].ready = true,
            Message::Enable(queue, false) => driver.queues[usize::from(queue)].running = false,
            Message::WriteBack(_) => {
                // What is under way may be served in either mode, and so may what is asked for before the answer.
                driver.write_back = true;
                let slots = driver.queues.iter_mut().flat_map(|q| q.slots.iter_mut().flatten());
                slots.for_each(|asked| asked.durable = false);
            }
            _ => {}
        }
    }

    /// A driver is about to take a region back: what lies in it may fail.
    fn takes_back(&mut self, at: usize, region: usize) {
        let Some(driver) = &mut self.seats[at].driver else { return };
        if driver.memory[region].share != Share::In {
            return;
        }
        driver.memory[region].share = Share::Removing;
        for asked in driver.queues.iter_mut().flat_map(|q| q.slots.iter_mut().flatten()) {
            asked.may_fail |= asked.region == region || region == 0;
        }
    }

    fn answered(&mut self, at: usize, message: Message, payload: &[u8]) {
        let mut word = [0; 8];
        if let Some(bytes) = payload.get(..8) {
            word.copy_from_slice(bytes);
        }
        let value = u64::from_le_bytes(word);
        let declines = self.seats[at].place.declines;
        // What a hostile client believes is not what is so.
        let hostile = self.seats[at].place.hostile;
        if hostile && !matches!(message, Message::GetFeatures | Message::Enable(..)) {
            return;
        }
        let troubled = self.is_troubled(at);
        let Some(driver) = &mut self.seats[at].driver else { return };
        match message {
            Message::SetInflight if value != 0 && !troubled => {
                self.find(Judge::Model, || format!("seat {at}: where it keeps what is in flight is refused"));
            }
            Message::GetFeatures => {
                driver.features = value & KNOWN & !declines;
                driver.write_back = true;
            }
            Message::GetInflight if value > 0 => self.has_journal(at),
            Message::Add(region) => self.shared(at, region.into(), value == 0),
            Message::Remove(region) => self.returned(at, region.into(), value == 0),
            Message::Table(mask) => {
                for region in 0..REGIONS {
                    if mask >> region & 1 == 1 {
                        self.shared(at, region, value == 0);
                    } else {
                        self.returned(at, region, value == 0);
                    }
                }
            }
            Message::Enable(queue, true) if value == 0 => {
                let queue = &mut driver.queues[usize::from(queue)];
                queue.running = (queue.ready || hostile) && driver.memory[0].share != Share::Out;
                queue.kicked = true;
                queue.journaled |= queue.running && driver.journal.is_some();
            }
            Message::GetBase(queue) => {
                let base = u32::from_le_bytes([word[4], word[5], word[6], word[7]]) as u16;
                self.stopped_at(at, queue, base);
            }
            // Nobody tells it where: all that was taken is answered, so what is used says it.
            Message::Enable(queue, false) if value == 0 => {
                let queue = &mut driver.queues[usize::from(queue)];
                queue.base = queue.ring.used_index().unwrap_or(queue.base);
            }
            Message::WriteBack(on) if value == 0 => driver.write_back = on,
            Message::Reset if value == 0 => self.forget_queues(at),
            Message::OwnerAgain => {
                self.forget_queues(at);
                for region in 0..REGIONS {
                    self.returned(at, region, true);
                }
            }
            // Each negotiation begins with the default again.
            Message::SetFeatures if value == 0 => driver.write_back = true,
            Message::SetFeatures if !troubled => {
                self.find(Judge::Model, || format!("seat {at}: features that were offered are refused"));
            }
            _ => {}
        }
    }

    /// The server has a region now, or has not.
    fn shared(&mut self, at: usize, region: usize, well: bool) {
        let Some(driver) = &mut self.seats[at].driver else { return };
        let memory = &mut driver.memory[region];
        match (memory.share, well) {
            (Share::Adding, true) => (memory.share, memory.wanted) = (Share::In, false),
            (Share::Adding, false) => {
                memory.share = Share::Out;
                let window = memory.window.clone();
                self.court().set_memory(&window, Arena::Out);
                drop(window);
                if self.seats[at].driver.as_ref().is_some_and(|d| d.is_held(region)) {
                    self.find(Judge::Life, || {
                        format!("region {region} of seat {at} was refused, and is held")
                    });
                }
            }
            _ => {}
        }
    }

    /// The server has given a region back, or has not.
    fn returned(&mut self, at: usize, region: usize, well: bool) {
        let quarantined = self.keeps && self.seats[at].lost;
        let Some(driver) = &mut self.seats[at].driver else { return };
        let memory = &mut driver.memory[region];
        if !well || memory.share == Share::Out {
            if memory.share == Share::Removing {
                memory.share = Share::In;
            }
            return;
        }
        // What was answered until now was answered in time.
        for queue in 0..QUEUES as u8 {
            self.reap(at, queue);
        }
        let Some(driver) = &mut self.seats[at].driver else { return };
        let memory = &mut driver.memory[region];
        memory.share = Share::Out;
        let window = memory.window.clone();
        if quarantined {
            return;
        }
        self.court().set_memory(&window, Arena::Out);
        drop(window);
        let Some(driver) = &mut self.seats[at].driver else { return };
        let used = driver.queues.iter().flat_map(|q| q.slots.iter().flatten()).any(|a| a.region == region);
        if region == 0 {
            driver.queues.iter_mut().for_each(|q| q.running = false);
        }
        // Whoever writes there from now on is seen.
        if region != 0 && !used {
            let _ = driver.memory[region].window.fill(0, crate::driver::LEN[region] as usize, 0xc7);
            driver.memory[region].canary = true;
        }
        if driver.is_held(region) {
            self.find(Judge::Life, || format!("region {region} of seat {at} was given back, and is held"));
        }
    }

    /// A queue has stopped: all that was taken from it is answered.
    fn stopped_at(&mut self, at: usize, queue: u8, base: u16) {
        self.reap(at, queue);
        let hostile = self.seats[at].place.hostile;
        let kept = self.keeps && self.is_troubled(at);
        let Some(driver) = &mut self.seats[at].driver else { return };
        let state = &mut driver.queues[usize::from(queue)];
        state.base = base;
        state.running = false;
        let waits = state.avail.wrapping_sub(base);
        let there = state.slots.iter().flatten().count();
        // What cannot be proven quiet is never answered, and its session is closed.
        let journal = state.journaled && driver.journal.is_some();
        // What a journal has, and nobody did yet, is done when the ring is started again.
        let broken = state.broken || hostile || kept || journal;
        if !broken && usize::from(waits) != there && state.ring.used_index().is_ok_and(|used| used != base) {
            self.find(Judge::Life, || {
                format!("queue {queue} of seat {at} stopped at {base} with {there} requests unanswered, {waits} not taken")
            });
        }
    }

    /// The device was reset: nothing of what was asked will be answered.
    fn forget_queues(&mut self, at: usize) {
        let queues = self.seats[at].driver.as_ref().map_or(0, |d| d.queues.len());
        for queue in 0..queues as u8 {
            self.reap(at, queue);
            let Some(driver) = &mut self.seats[at].driver else { return };
            for asked in driver.reset(queue.into()) {
                self.over(at, &asked, false);
            }
        }
    }

    /// What a client's machine wants becomes messages.
    pub(crate) fn want(&mut self, at: usize, wish: Wish) -> bool {
        if at >= self.seats.len() {
            return false;
        }
        if wish == Wish::Connect {
            return self.connect(at);
        }
        if wish == Wish::Vanish {
            let there = self.seats[at].phase == Phase::Connected && self.seats[at].hangs_up.is_none();
            self.disconnect(at, false);
            return there;
        }
        if wish == Wish::Reconnect {
            return self.reconnect(at);
        }
        let (queues, inflight) = (self.seats[at].place.queues, self.seats[at].place.inflight);
        let Some(conn) = &mut self.seats[at].conn else { return false };
        if conn.todo.len() > 40 {
            return false;
        }
        let queue = |n: u8| n % queues as u8;
        // What a reset leaves is nothing: some begin with another, and some keep what they have.
        let anew = inflight && self.seats[at].clients.is_multiple_of(2);
        let journal: &[Message] = if anew { &[Message::GetInflight, Message::SetInflight] } else { &[] };
        let Some(conn) = &mut self.seats[at].conn else { return false };
        match wish {
            Wish::Connect | Wish::Vanish | Wish::Reconnect => {}
            Wish::Add(region) => conn.todo.push_back(Message::Add(1 + region % 2)),
            Wish::Remove(region) => conn.todo.push_back(Message::Remove(1 + region % 2)),
            Wish::Table(mask) if mask < 200 => conn.todo.push_back(Message::Table(mask & 7 | 1)),
            // The rings go with it: their queues are broken, and are set up anew.
            Wish::Table(mask) => {
                conn.todo.extend([
                    Message::Table(mask & 6),
                    Message::Reset,
                    Message::Add(0),
                    Message::SetFeatures,
                ]);
                conn.todo.extend(journal);
                for n in 0..queues as u8 {
                    conn.todo.extend(Message::start(n));
                }
            }
            Wish::Stop(n) => conn.todo.push_back(Message::GetBase(queue(n))),
            Wish::Start(n) => conn.todo.extend(Message::start(queue(n))),
            Wish::Disable(n) => {
                conn.todo.extend([Message::Enable(queue(n), false), Message::Enable(queue(n), true)]);
            }
            Wish::Reset => {
                conn.todo.extend([Message::Reset, Message::SetFeatures]);
                conn.todo.extend(journal);
                for n in 0..queues as u8 {
                    conn.todo.extend(Message::start(n));
                }
            }
            Wish::WriteBack(on) => conn.todo.push_back(Message::WriteBack(on)),
            Wish::Owner => {
                conn.todo.extend([Message::GetProtocol, Message::SetProtocol, Message::OwnerAgain]);
                let mut boot = Message::boot(queues, inflight);
                boot.retain(|m| !matches!(m, Message::Owner | Message::GetProtocol | Message::SetProtocol));
                conn.todo.extend(boot);
            }
        }
        true
    }
}
