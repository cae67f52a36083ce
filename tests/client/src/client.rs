//! A whole client: connection, memory and queues, negotiated and running.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::message::{protocol, request};
use crate::{
    Addresses, BlkConfig, Completion, Error, Format, FrontEnd, Inflight, Io, Memory, Queue, Range, Result,
    Segment, Status, feature, kind, socket,
};

/// How a client sets itself up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Queues.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// Features that may be acknowledged; those that the device does not offer never are.
    pub features: u64,
    /// Protocol features, likewise.
    pub protocol: u64,
    /// Regions (guest address, bytes), all in one memfd, one after the other. Queues and scratch are in the first.
    pub regions: Vec<(u64, u64)>,
    /// Whether regions are told one by one (ADD_MEM_REG) where the back-end can do that.
    pub region_by_region: bool,
    /// Bytes for the data of the synchronous calls; they split at this size.
    pub scratch: u32,
    /// The most data segments of a request.
    pub seg_max: u16,
    /// How long any wait may take.
    pub wait: Duration,
    /// How long to look for a completion before sleeping.
    pub spin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 128,
            features: !(feature::RING_PACKED | feature::IOMMU_PLATFORM | feature::LOG_ALL),
            protocol: protocol::MQ
                | protocol::REPLY_ACK
                | protocol::CONFIG
                | protocol::CONFIGURE_MEM_SLOTS
                | protocol::RESET_DEVICE,
            regions: vec![(0x10_0000, 16 << 20)],
            region_by_region: false,
            scratch: 1 << 20,
            seg_max: 126,
            wait: Duration::from_secs(20),
            spin: Duration::from_micros(20),
        }
    }
}

/// A running client. All parts are open: breaking them is what some tests are for.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    pub front: FrontEnd,
    /// The memory that was registered.
    pub memory: Memory,
    /// The queues, running.
    pub queues: Vec<Queue>,
    /// Features offered by the device.
    pub offered: u64,
    /// Features acknowledged.
    pub features: u64,
    /// Protocol features acknowledged.
    pub protocol: u64,
    /// The configuration at the time of connecting.
    pub config: BlkConfig,
    /// Guest address of the synchronous calls' data.
    pub scratch: u64,
    options: Options,
}

impl Client {
    /// Connects to a listening socket, negotiates and starts all queues.
    pub fn connect(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::from_fd(socket::connect_retry(path.as_ref(), Duration::ZERO)?, options)
    }

    /// The same on a connected socket.
    pub fn from_fd(socket: OwnedFd, options: &Options) -> Result<Self> {
        let mut memory = Memory::new();
        let total = options.regions.iter().map(|(_, len)| len).sum();
        let file = memory.add_file(crate::memory::memfd(total, false)?);
        let mut offset = 0;
        for (guest, len) in &options.regions {
            memory.add_region(file, offset, *guest, *len)?;
            offset += len;
        }
        Self::with_memory(socket, memory, options)
    }

    /// The same over memory that the caller made; its first region holds queues and scratch.
    pub fn with_memory(socket: OwnedFd, memory: Memory, options: &Options) -> Result<Self> {
        let mut client = Self::negotiate(socket, memory, options)?;
        client.register()?;
        for index in 0..options.queues {
            client.add_queue(index)?;
        }
        Ok(client)
    }

    /// Negotiates features and reads the configuration; registers no memory and starts no queue.
    pub fn negotiate(socket: OwnedFd, mut memory: Memory, options: &Options) -> Result<Self> {
        let mut front = FrontEnd::from_fd(socket, options.wait);
        let offered = front.features()?;
        let features = offered & options.features;
        let mut protocol = 0;
        if features & feature::PROTOCOL_FEATURES != 0 {
            protocol = front.protocol_features()? & options.protocol;
            front.set_protocol_features(protocol)?;
        }
        front.set_owner()?;
        front.set_features(features)?;
        let mut config = BlkConfig::default();
        if protocol & protocol::CONFIG != 0 {
            config = BlkConfig::from_bytes(&front.config(0, BlkConfig::LEN)?);
        }
        let scratch = match options.scratch {
            0 => 0,
            len => memory.alloc(len.into(), 4096)?,
        };
        let options = options.clone();
        Ok(Self { front, memory, queues: Vec::new(), offered, features, protocol, config, scratch, options })
    }

    /// Registers all regions.
    pub fn register(&self) -> Result<()> {
        if self.options.region_by_region && self.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            let regions = self.memory.regions.iter();
            return regions
                .into_iter()
                .try_for_each(|r| self.front.add_mem_reg(r.words, self.memory.file(r.file)?));
        }
        self.front.set_mem_table(&self.memory)
    }

    /// Whether a feature was acknowledged.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Lays out a queue in the first region and starts it.
    pub fn add_queue(&mut self, index: u16) -> Result<()> {
        let format = if self.has(feature::INDIRECT_DESC) { Format::Indirect } else { Format::Direct };
        let (size, seg_max) = (self.options.queue_size, self.options.seg_max);
        let event_idx = self.has(feature::EVENT_IDX);
        let queue = Queue::new(&mut self.memory, 0, index, size, seg_max, format, event_idx)?;
        self.start_queue(&queue)?;
        self.queues.push(queue);
        Ok(())
    }

    /// Tells the device everything about a queue, and enables it.
    pub fn start_queue(&self, queue: &Queue) -> Result<()> {
        let (index, small) = (u32::from(queue.index), queue.index as u8);
        self.front.set_vring_num(index, queue.ring.size.into())?;
        self.front.set_vring_base(index, queue.next_avail.into())?;
        let at = Addresses {
            desc: self.memory.user(queue.ring.desc)?,
            used: self.memory.user(queue.ring.used)?,
            avail: self.memory.user(queue.ring.avail)?,
            ..Addresses::default()
        };
        self.front.set_vring_addr(index, at)?;
        self.front.vring_fd(request::SET_VRING_CALL, small, Some(queue.call.as_fd()))?;
        self.front.vring_fd(request::SET_VRING_ERR, small, Some(queue.err.as_fd()))?;
        self.front.vring_fd(request::SET_VRING_KICK, small, Some(queue.kick.as_fd()))?;
        if self.has(feature::PROTOCOL_FEATURES) {
            self.front.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// One queue.
    pub fn queue(&mut self, index: usize) -> Result<&mut Queue> {
        self.queues.get_mut(index).ok_or(Error::Full("no such queue"))
    }

    /// Sends one request on a queue and waits for its end. Nothing else may be in flight there.
    pub fn request(&mut self, queue: usize, io: Io<'_>) -> Result<Completion> {
        let (spin, deadline) = (self.options.spin, socket::until(self.options.wait));
        let queue = self.queue(queue)?;
        queue.submit(io, u64::MAX)?;
        queue.publish()?;
        queue.next(spin, deadline)
    }

    /// As [`Client::request`] on queue 0; any status but OK is an error. Says how many bytes were written.
    pub fn run(&mut self, io: Io<'_>) -> Result<u32> {
        let done = self.request(0, io)?;
        if done.status == Status::Ok { Ok(done.written) } else { Err(Error::Status(done.status)) }
    }

    /// Reads from a sector on (512 bytes each).
    pub fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<()> {
        let chunk = self.options.scratch as usize;
        for (i, part) in into.chunks_mut(chunk).enumerate() {
            let segments = [Segment { addr: self.scratch, len: part.len() as u32 }];
            let sector = sector + (i * (chunk / 512)) as u64;
            self.run(Io { kind: kind::IN, sector, segments: &segments, to_device: false })?;
            self.memory.read(self.scratch, part)?;
        }
        Ok(())
    }

    /// Writes from a sector on.
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
        let chunk = self.options.scratch as usize;
        for (i, part) in bytes.chunks(chunk).enumerate() {
            self.memory.write(self.scratch, part)?;
            let segments = [Segment { addr: self.scratch, len: part.len() as u32 }];
            let sector = sector + (i * (chunk / 512)) as u64;
            self.run(Io { kind: kind::OUT, sector, segments: &segments, to_device: true })?;
        }
        Ok(())
    }

    /// Makes writes durable.
    pub fn flush(&mut self) -> Result<()> {
        self.run(Io { kind: kind::FLUSH, sector: 0, segments: &[], to_device: true }).map(drop)
    }

    /// Discards sectors.
    pub fn discard(&mut self, sector: u64, sectors: u32) -> Result<()> {
        self.ranges(kind::DISCARD, &[Range { sector, sectors, flags: 0 }])
    }

    /// Zeroes sectors.
    pub fn write_zeroes(&mut self, sector: u64, sectors: u32, may_unmap: bool) -> Result<()> {
        self.ranges(kind::WRITE_ZEROES, &[Range { sector, sectors, flags: u32::from(may_unmap) }])
    }

    /// A discard or write-zeroes request with any ranges.
    pub fn ranges(&mut self, kind: u32, ranges: &[Range]) -> Result<()> {
        self.memory.write(self.scratch, ranges.as_bytes())?;
        let segments = [Segment { addr: self.scratch, len: size_of_val(ranges) as u32 }];
        self.run(Io { kind, sector: 0, segments: &segments, to_device: true }).map(drop)
    }

    /// The device's name.
    pub fn id(&mut self) -> Result<[u8; 20]> {
        let segments = [Segment { addr: self.scratch, len: 20 }];
        self.run(Io { kind: kind::GET_ID, sector: 0, segments: &segments, to_device: false })?;
        let mut id = [0; 20];
        self.memory.read(self.scratch, &mut id)?;
        Ok(id)
    }

    /// Reads the configuration anew.
    pub fn read_config(&self) -> Result<BlkConfig> {
        Ok(BlkConfig::from_bytes(&self.front.config(0, BlkConfig::LEN)?))
    }

    /// Switches the cache mode (needs CONFIG_WCE).
    pub fn set_write_back(&self, on: bool) -> Result<()> {
        self.front.set_config(BlkConfig::WRITEBACK, &[u8::from(on)])
    }

    /// Stops a queue (GET_VRING_BASE); says where the device would go on.
    pub fn stop_queue(&self, index: usize) -> Result<u16> {
        let queue = self.queues.get(index).ok_or(Error::Full("no such queue"))?;
        Ok(self.front.get_vring_base(queue.index.into())? as u16)
    }

    /// Goes on with another back-end: the same memory, the same rings with all that is in flight. As front-ends do that build their
    /// rings anew, it tells it to start at the next request of its own.
    pub fn reconnect(&mut self, socket: OwnedFd, inflight: Option<&Inflight>) -> Result<()> {
        let mut front = FrontEnd::from_fd(socket, self.options.wait);
        front.features()?;
        let protocol = front.protocol_features()? & self.options.protocol;
        front.set_protocol_features(protocol)?;
        front.set_owner()?;
        front.set_features(self.features)?;
        self.front = front;
        if let Some(inflight) = inflight {
            self.front.set_inflight(inflight)?;
        }
        self.register()?;
        self.queues.iter().try_for_each(|queue| self.start_queue(queue))
    }

    /// Starts a stopped queue from nothing, as a driver does after a reset.
    pub fn restart_queue(&mut self, index: usize) -> Result<()> {
        self.queue(index)?.restart()?;
        let queue = self.queues.get(index).ok_or(Error::Full("no such queue"))?;
        self.start_queue(queue)
    }
}
