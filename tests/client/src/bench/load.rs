//! The load itself.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Histogram, check_pattern, write_pattern};
use crate::{Client, Error, Io, Result, Segment, Status, kind, socket};

/// Which blocks come one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Any.
    Random,
    /// From the first on, and around.
    Sequential,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Which blocks.
    pub order: Order,
    /// Whether to write.
    pub write: bool,
    /// Bytes of a request.
    pub block: u32,
    /// Requests in flight on each queue.
    pub depth: u16,
    /// How long.
    pub time: Duration,
    /// How long to look for completions before sleeping.
    pub spin: Duration,
    /// At most so many requests a second, on all queues together: each is submitted when it is due. None: as many as there can be.
    pub pace: Option<f64>,
    /// Whether the disk has the pattern of [`write_pattern`]: reads are compared with it, writes keep it.
    pub verify: bool,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            order: Order::Random,
            write: false,
            block: 4096,
            depth: 32,
            time: Duration::from_secs(1),
            spin: Duration::from_micros(50),
            pace: None,
            verify: false,
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests that ended well.
    pub requests: u64,
    /// From the first submission to the last completion.
    pub elapsed: Duration,
    /// Their latencies.
    pub latency: Histogram,
    /// How often the client kicked.
    pub kicks: u64,
    /// How often the client slept.
    pub sleeps: u64,
    /// How often the server notified it.
    pub calls: u64,
}

impl Measured {
    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

struct Slots {
    /// Guest address of the first slot's data; they follow one another.
    data: u64,
    started: Vec<Instant>,
    sectors: Vec<u64>,
}

struct Run<'a> {
    client: &'a mut Client,
    load: Load,
    slots: Vec<Slots>,
    blocks: u64,
    random: u64,
    next: u64,
    /// Queues and their slots that wait until they are due.
    free: VecDeque<(usize, u16)>,
    buffer: Vec<u8>,
    measured: Measured,
}

/// Where the buffers of a load are; made once per client, since client memory is never given back.
#[derive(Clone, Debug)]
pub struct Buffers {
    data: Vec<u64>,
    block: u32,
    depth: u16,
}

impl Load {
    /// Lays out the buffers for all queues of a client.
    pub fn buffers(&self, client: &mut Client) -> Result<Buffers> {
        let len = u64::from(self.block) * u64::from(self.depth);
        let data = (0..client.queues.len()).map(|_| client.memory.alloc(len, 4096)).collect::<Result<_>>()?;
        Ok(Buffers { data, block: self.block, depth: self.depth })
    }

    /// Runs on all queues of the client, which must be idle. Ends with the first error.
    pub fn run(&self, client: &mut Client, buffers: &Buffers) -> Result<Measured> {
        let blocks = client.config.capacity * 512 / u64::from(self.block);
        if blocks == 0 || buffers.block < self.block || buffers.depth < self.depth {
            return Err(Error::Full("disk or buffers"));
        }
        let now = Instant::now();
        let depth = usize::from(self.depth);
        let slots = buffers.data.iter();
        let slots =
            slots.map(|data| Slots { data: *data, started: vec![now; depth], sectors: vec![0; depth] });
        let empty = Histogram::default();
        let (requests, kicks, sleeps, calls) = (0, 0, 0, 0);
        let measured = Measured { requests, elapsed: Duration::ZERO, latency: empty, kicks, sleeps, calls };
        let mut run = Run {
            slots: slots.collect(),
            client,
            load: *self,
            blocks,
            random: self.seed | 1,
            next: 0,
            free: VecDeque::new(),
            buffer: vec![0; self.block as usize],
            measured,
        };
        run.all()?;
        Ok(run.measured)
    }
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let start = Instant::now();
        let end = start + self.load.time;
        for queue in 0..self.slots.len() {
            for slot in 0..self.load.depth {
                match self.load.pace {
                    Some(_) => self.free.push_back((queue, slot)),
                    None => self.submit(queue, slot, start)?,
                }
            }
            self.publish(queue)?;
        }
        let (mut now, mut begun) = (Instant::now(), 0);
        while now < end || self.in_flight() > 0 {
            let mut some = false;
            for queue in 0..self.slots.len() {
                some |= self.pass(queue, now, now < end)?;
            }
            let due = match self.load.pace {
                Some(pace) if now < end => {
                    some |= self.submit_due(((now - start).as_secs_f64() * pace) as u64, &mut begun, now)?;
                    let next = start + Duration::from_secs_f64((begun + 1) as f64 / pace);
                    (!self.free.is_empty()).then_some(next)
                }
                _ => None,
            };
            if !some && (due.is_some() || self.in_flight() > 0) {
                self.wait(due.map(|due| due.min(end)))?;
            }
            now = Instant::now();
        }
        self.measured.elapsed = start.elapsed();
        Ok(())
    }

    /// Submits what is due of so many in all.
    fn submit_due(&mut self, due: u64, begun: &mut u64, now: Instant) -> Result<bool> {
        let before = *begun;
        while *begun < due
            && let Some((queue, slot)) = self.free.pop_front()
        {
            self.submit(queue, slot, now)?;
            *begun += 1;
        }
        if *begun == before {
            return Ok(false);
        }
        (0..self.slots.len()).try_for_each(|queue| self.publish(queue))?;
        Ok(true)
    }

    fn in_flight(&self) -> u32 {
        self.client.queues.iter().map(crate::Queue::in_flight).sum()
    }

    /// Takes what is done on a queue and submits as much again.
    fn pass(&mut self, queue: usize, now: Instant, go_on: bool) -> Result<bool> {
        let mut some = false;
        while let Some(done) = self.client.queue(queue)?.poll()? {
            some = true;
            if done.status != Status::Ok {
                return Err(Error::Status(done.status));
            }
            let slot = done.token as u16;
            self.finished(queue, slot, now)?;
            if self.load.pace.is_some() {
                self.free.push_back((queue, slot));
            } else if go_on {
                self.submit(queue, slot, now)?;
            }
        }
        if some {
            self.publish(queue)?;
        }
        Ok(some)
    }

    fn publish(&mut self, queue: usize) -> Result<()> {
        let kicked = self.client.queue(queue)?.publish()?;
        self.measured.kicks += u64::from(kicked);
        Ok(())
    }

    fn finished(&mut self, queue: usize, slot: u16, now: Instant) -> Result<()> {
        let slots = &self.slots[queue];
        let nanos = now.saturating_duration_since(slots.started[usize::from(slot)]).as_nanos() as u64;
        self.measured.latency.add(nanos);
        self.measured.requests += 1;
        if self.load.verify && !self.load.write {
            let sector = slots.sectors[usize::from(slot)];
            let at = slots.data + u64::from(slot) * u64::from(self.load.block);
            self.client.memory.read(at, &mut self.buffer)?;
            if !check_pattern(sector * 512, &self.buffer) {
                return Err(Error::Protocol(format!("sector {sector} came with other data")));
            }
        }
        Ok(())
    }

    fn submit(&mut self, queue: usize, slot: u16, now: Instant) -> Result<()> {
        let block = match self.load.order {
            Order::Sequential => {
                let block = self.next;
                self.next = (self.next + 1) % self.blocks;
                block
            }
            Order::Random => {
                // xorshift64*.
                self.random ^= self.random >> 12;
                self.random ^= self.random << 25;
                self.random ^= self.random >> 27;
                let word = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
                ((u128::from(word) * u128::from(self.blocks)) >> 64) as u64
            }
        };
        let sector = block * u64::from(self.load.block / 512);
        let slots = &mut self.slots[queue];
        slots.started[usize::from(slot)] = now;
        slots.sectors[usize::from(slot)] = sector;
        let addr = slots.data + u64::from(slot) * u64::from(self.load.block);
        if self.load.verify && self.load.write {
            write_pattern(sector * 512, &mut self.buffer);
            self.client.memory.write(addr, &self.buffer)?;
        }
        let kind = if self.load.write { kind::OUT } else { kind::IN };
        let segments = [Segment { addr, len: self.load.block }];
        let io = Io { kind, sector, segments: &segments, to_device: self.load.write };
        self.client.queue(queue)?.submit(io, slot.into())
    }

    fn ready(&self) -> Result<bool> {
        for queue in &self.client.queues {
            if queue.in_flight() > 0 && queue.ring.used_index()? != queue.next_used {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for a completion, or until then.
    fn wait(&mut self, until: Option<Instant>) -> Result<()> {
        let start = Instant::now();
        while !self.load.spin.is_zero() {
            for _ in 0..16 {
                if self.ready()? {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.load.spin {
                break;
            }
        }
        let deadline = start + Duration::from_secs(30);
        loop {
            let mut ready = false;
            for queue in &self.client.queues {
                self.measured.calls += socket::drain(queue.call.as_fd())?;
                ready |= queue.in_flight() > 0 && queue.arm()?;
            }
            let now = Instant::now();
            if ready || until.is_some_and(|until| now >= until) {
                break;
            }
            self.measured.sleeps += 1;
            let calls = self.client.queues.iter();
            let mut fds: Vec<_> =
                calls.map(|q| PollFd::from_borrowed_fd(q.call.as_fd(), PollFlags::IN)).collect();
            let left = until.unwrap_or(deadline).saturating_duration_since(now);
            if left.is_zero() {
                return Err(Error::Deadline("completion"));
            }
            poll(
                &mut fds,
                Some(&Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }),
            )?;
        }
        self.client.queues.iter().try_for_each(crate::Queue::disarm)
    }
}
