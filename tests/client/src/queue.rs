//! A driver for one split virtqueue: requests in, completions out, kicks and interrupts as the device asks for them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nvme_mem::Window;
use rustix::event::PollFlags;

use crate::{Desc, Error, Header, Memory, Result, Ring, Segment, Status, desc_flag, socket};

/// How chains are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Each part of a request is a descriptor of the ring.
    Direct,
    /// One descriptor of the ring, and a table of its own for the rest.
    Indirect,
}

/// A block request.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// [`crate::kind`].
    pub kind: u32,
    /// In units of 512 bytes.
    pub sector: u64,
    /// The data.
    pub segments: &'a [Segment],
    /// Whether the device reads the data (else it writes it).
    pub to_device: bool,
}

/// A request that ended.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What was given to [`Queue::submit`].
    pub token: u64,
    /// The status byte.
    pub status: Status,
    /// Bytes written, as the used ring says: data and status.
    pub written: u32,
}

const HEADER: usize = 0;
const STATUS: usize = 16;
const TABLE: usize = 32;

/// One queue of the device.
#[derive(Debug)]
pub struct Queue {
    /// The ring itself, for raw access.
    pub ring: Ring,
    /// The queue's number.
    pub index: u16,
    /// Written to tell the device.
    pub kick: OwnedFd,
    /// Written by the device.
    pub call: OwnedFd,
    /// Written by the device when the ring is broken.
    pub err: OwnedFd,
    /// Position of the next entry of the available ring.
    pub next_avail: u16,
    /// Position of the next entry of the used ring.
    pub next_used: u16,
    format: Format,
    event_idx: bool,
    seg_max: usize,
    // Per head: header, status, and an indirect table. The address of the first, and the distance between them.
    slots: Window,
    slots_at: u64,
    stride: usize,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    tokens: Vec<Option<u64>>,
    published: u16,
    seen: u16,
    in_flight: u32,
}

impl Queue {
    /// Lays out a queue in a region. `seg_max` bounds the data segments of a request.
    pub fn new(
        memory: &mut Memory,
        region: usize,
        index: u16,
        size: u16,
        seg_max: u16,
        format: Format,
        event_idx: bool,
    ) -> Result<Self> {
        let ring = Ring::new(memory, region, size)?;
        let stride = (TABLE + 16 * (usize::from(seg_max) + 2)).next_multiple_of(64);
        let len = stride as u64 * u64::from(size);
        let slots_at = memory.alloc_in(region, len, 64)?;
        let queue = Self {
            ring,
            index,
            kick: socket::event()?,
            call: socket::event()?,
            err: socket::event()?,
            next_avail: 0,
            next_used: 0,
            format,
            event_idx,
            seg_max: seg_max.into(),
            slots: memory.window(slots_at, len)?,
            slots_at,
            stride,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
            tokens: vec![None; size.into()],
            published: 0,
            seen: 0,
            in_flight: 0,
        };
        queue.ring.clear()?;
        Ok(queue)
    }

    /// Forgets everything in flight and starts at index 0, as after a device reset.
    pub fn restart(&mut self) -> Result<()> {
        self.ring.clear()?;
        self.next_avail = 0;
        self.next_used = 0;
        self.published = 0;
        self.seen = 0;
        self.in_flight = 0;
        self.free = (0..self.ring.size).rev().collect();
        self.tokens.fill(None);
        Ok(())
    }

    /// Requests submitted and not yet completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Puts a request into the ring; the device sees it after [`Queue::publish`]. [`Error::Full`] when there is no room.
    pub fn submit(&mut self, io: Io<'_>, token: u64) -> Result<()> {
        let parts = io.segments.len() + 2;
        let need = if self.format == Format::Indirect { 1 } else { parts };
        if io.segments.len() > self.seg_max || self.free.len() < need {
            return Err(Error::Full("queue"));
        }
        let Some(head) = self.free.pop() else { return Err(Error::Full("queue")) };
        let slot = self.stride * usize::from(head);
        let at = self.slots_at + slot as u64;
        let header = Header { kind: io.kind.to_le(), reserved: 0, sector: io.sector.to_le() };
        self.slots.write_value(slot + HEADER, &header)?;
        self.slots.write(slot + STATUS, &[0xff])?;

        let data_flags = if io.to_device { 0 } else { desc_flag::WRITE };
        let first = Desc { addr: at + HEADER as u64, len: 16, flags: 0, next: 0 };
        let last = Desc { addr: at + STATUS as u64, len: 1, flags: desc_flag::WRITE, next: 0 };
        let data = io.segments.iter().map(|s| Desc { addr: s.addr, len: s.len, flags: data_flags, next: 0 });
        let chain = std::iter::once(first).chain(data).chain(std::iter::once(last)).enumerate();

        if self.format == Format::Indirect {
            for (i, mut desc) in chain {
                if i + 1 < parts {
                    desc.flags |= desc_flag::NEXT;
                    desc.next = i as u16 + 1;
                }
                self.slots.write_value(slot + TABLE + i * 16, &desc)?;
            }
            let len = parts as u32 * 16;
            let desc = Desc { addr: at + TABLE as u64, len, flags: desc_flag::INDIRECT, next: 0 };
            self.ring.set_desc(head, desc)?;
        } else {
            let mut places = std::mem::take(&mut self.chains[usize::from(head)]);
            places.clear();
            places.push(head);
            places.extend(self.free.drain(self.free.len() - (parts - 1)..));
            for (i, mut desc) in chain {
                if let Some(next) = places.get(i + 1) {
                    desc.flags |= desc_flag::NEXT;
                    desc.next = *next;
                }
                self.ring.set_desc(places[i], desc)?;
            }
            self.chains[usize::from(head)] = places;
        }
        self.tokens[usize::from(head)] = Some(token);
        self.in_flight += 1;
        self.offer(head)
    }

    /// Puts any chain into the available ring; the device sees it after [`Queue::publish`]. What comes back for a head
    /// that [`Queue::submit`] did not use is an error of [`Queue::poll`]: read the used ring instead.
    pub fn offer(&mut self, head: u16) -> Result<()> {
        self.ring.set_avail(self.next_avail, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(())
    }

    /// Shows the device what was submitted, and kicks it if it wants that. Says whether it was kicked.
    pub fn publish(&mut self) -> Result<bool> {
        let old = std::mem::replace(&mut self.published, self.next_avail);
        if old == self.next_avail {
            return Ok(false);
        }
        self.ring.set_avail_index(self.next_avail)?;
        // The index must be visible before we look whether the device sleeps, else both wait for each other.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            passed(self.ring.avail_event()?, old, self.next_avail)
        } else {
            self.ring.used_flags()? & 1 == 0
        };
        if wanted {
            self.kick()?;
        }
        Ok(wanted)
    }

    /// Kicks the device, wanted or not.
    pub fn kick(&self) -> Result<()> {
        socket::signal(self.kick.as_fd())
    }

    /// Takes one completion, if there is one.
    pub fn poll(&mut self) -> Result<Option<Completion>> {
        if self.seen == self.next_used {
            self.seen = self.ring.used_index()?;
            if self.seen == self.next_used {
                return Ok(None);
            }
        }
        let (id, written) = self.ring.used(self.next_used)?;
        self.next_used = self.next_used.wrapping_add(1);
        let taken = self.tokens.get_mut(id as usize).and_then(Option::take);
        let token =
            taken.ok_or_else(|| Error::Protocol(format!("a completion for {id}, which is not in flight")))?;
        let mut status = [0];
        self.slots.read(self.stride * id as usize + STATUS, &mut status)?;
        if self.format == Format::Direct {
            let Self { chains, free, .. } = self;
            free.extend(chains[id as usize].drain(..).rev());
        } else {
            self.free.push(id as u16);
        }
        self.in_flight -= 1;
        Ok(Some(Completion { token, status: Status::from_byte(status[0]), written }))
    }

    /// Waits for the used index to move on: looks for up to `spin`, then asks for an interrupt and sleeps until the
    /// deadline. Says whether there is something to [`Queue::poll`].
    pub fn wait(&mut self, spin: Duration, deadline: Instant) -> Result<bool> {
        if self.ring.used_index()? != self.next_used {
            return Ok(true);
        }
        if !spin.is_zero() {
            let end = Instant::now() + spin;
            loop {
                for _ in 0..32 {
                    std::hint::spin_loop();
                    if self.ring.used_index()? != self.next_used {
                        return Ok(true);
                    }
                }
                if Instant::now() >= end {
                    break;
                }
            }
        }
        loop {
            socket::drain(self.call.as_fd())?;
            if self.arm()? {
                break;
            }
            if !socket::wait_for(self.call.as_fd(), PollFlags::IN, deadline)? {
                self.disarm()?;
                return Ok(self.ring.used_index()? != self.next_used);
            }
        }
        self.disarm()?;
        Ok(true)
    }

    /// Asks for an interrupt at the next completion. `true`: one is already there.
    pub fn arm(&self) -> Result<bool> {
        if self.event_idx {
            self.ring.set_used_event(self.next_used)?;
        } else {
            self.ring.set_avail_flags(0)?;
        }
        // As in `publish`, the other way round.
        fence(Ordering::SeqCst);
        Ok(self.ring.used_index()? != self.next_used)
    }

    /// Asks for no interrupts (with EVENT_IDX: none soon).
    pub fn disarm(&self) -> Result<()> {
        if self.event_idx {
            // Half the number space away.
            Ok(self.ring.set_used_event(self.next_used.wrapping_sub(0x8000))?)
        } else {
            Ok(self.ring.set_avail_flags(1)?)
        }
    }

    /// Takes one completion, waiting for it.
    pub fn next(&mut self, spin: Duration, deadline: Instant) -> Result<Completion> {
        loop {
            if let Some(done) = self.poll()? {
                return Ok(done);
            }
            if !self.wait(spin, deadline)? {
                return Err(Error::Deadline("completion"));
            }
        }
    }
}

/// Whether an index that went from `old` to `new` passed `event` (virtio 1.2, 2.7.10).
fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;

    #[test]
    fn an_event_is_passed_exactly_when_it_lies_between() {
        assert!(passed(0, 0, 1) && passed(5, 3, 6) && passed(u16::MAX, 65530, 2));
        assert!(!passed(6, 3, 6) && !passed(2, 3, 6) && !passed(2, 65530, 2));
    }

    fn queue(format: Format, event_idx: bool) -> (Memory, Queue) {
        let mut memory = Memory::flat(0x10000, 1 << 20).unwrap();
        let queue = Queue::new(&mut memory, 0, 0, 8, 4, format, event_idx).unwrap();
        (memory, queue)
    }

    fn io(segments: &[Segment]) -> Io<'_> {
        Io { kind: kind::IN, sector: 7, segments, to_device: false }
    }

    #[test]
    fn a_direct_chain_takes_its_descriptors_and_gives_them_back() {
        let (_memory, mut queue) = queue(Format::Direct, false);
        let segments = [Segment { addr: 0x80000, len: 512 }; 2];
        queue.submit(io(&segments), 1).unwrap();
        queue.submit(io(&segments), 2).unwrap();
        assert!(matches!(queue.submit(io(&segments[..1]), 3), Err(Error::Full(_))));
        assert!(queue.publish().unwrap());
        assert_eq!(
            (queue.ring.avail_index().unwrap(), queue.ring.desc(0).unwrap().flags),
            (2, desc_flag::NEXT)
        );
        // The device's part, by hand: the second chain is done.
        let used = queue.ring.used;
        _memory.write(used + 4, &[4, 0, 0, 0, 1, 4, 0, 0]).unwrap();
        _memory.write(used + 2, &[1, 0]).unwrap();
        let done = queue.poll().unwrap().unwrap();
        assert_eq!((done.token, done.written, done.status), (2, 0x401, Status::Other(0xff)));
        assert!(queue.poll().unwrap().is_none());
        queue.submit(io(&segments), 4).unwrap();
        assert_eq!(queue.in_flight(), 2);
    }

    #[test]
    fn with_event_idx_a_kick_follows_the_device_s_wish() {
        let (memory, mut queue) = queue(Format::Indirect, true);
        let event = queue.ring.used + 4 + 8 * 8;
        memory.write(event, &[2, 0]).unwrap();
        let mut kicked = Vec::new();
        for token in 0..4 {
            queue.submit(io(&[]), token).unwrap();
            kicked.push(queue.publish().unwrap());
        }
        assert_eq!(kicked, [false, false, true, false]);
        assert!(!queue.publish().unwrap());
    }

    #[test]
    fn a_completion_that_nobody_waits_for_is_an_error() {
        let (memory, mut queue) = queue(Format::Indirect, false);
        memory.write(queue.ring.used + 2, &[1, 0]).unwrap();
        assert!(matches!(queue.poll(), Err(Error::Protocol(_))));
    }
}
