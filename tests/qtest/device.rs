//! A controller of the machine as the core sees it, with a look at what the driver does to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvme_core::nvme::spec::command::{Command, admin};
use nvme_platform::{
    Bus, CutOff, Device, DeviceError, DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova,
    QueueDoorbells, Registers, Window,
};

use crate::iommu::{Domain, Iommu};
use crate::memory::Memory;
use crate::pci::{BAR0, CAP_MSIX, Function, MASTER, MEMORY};
use crate::qtest::Qtest;

const AQA: u32 = 0x24;
const ASQ: u32 = 0x28;
const DOORBELLS: u32 = 0x1000;
const BAR: u64 = 0xc000_0000;
const BAR_BYTES: u32 = 0x4000;

struct Queue {
    memory: Window,
    depth: u16,
    tail: u16,
}

#[derive(Default)]
struct Seen {
    /// The submission queues that the controller was told of.
    queues: BTreeMap<u16, Queue>,
    /// Commands in the order of their doorbells, with their queue.
    commands: Vec<(u16, Command)>,
    /// Writes of the doorbell registers of I/O queues.
    rung: usize,
}

impl Seen {
    fn rung(&mut self, id: u16, tail: u16) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        while queue.tail != tail {
            let command = queue.memory.read_value(usize::from(queue.tail) * 64).unwrap();
            queue.tail = (queue.tail + 1) % queue.depth;
            self.commands.push((id, command));
        }
    }
}

/// What a test sees of a controller, and can do to it. Clones are the same.
#[derive(Clone)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    pub(crate) port: Function,
    pub(crate) function: Function,
    pub(crate) domain: Domain,
    /// A word for each vector, which its interrupt makes other than zero.
    interrupts: Window,
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a doorbell register of an I/O queue was written.
    pub(crate) fn rung(&self) -> usize {
        self.seen().rung
    }

    /// The commands of the admin queue (0), or of all others.
    pub(crate) fn commands(&self, admin: bool) -> Vec<Command> {
        self.seen().commands.iter().filter(|(id, _)| (*id == 0) == admin).map(|(_, c)| *c).collect()
    }

    pub(crate) fn count(&self, admin: bool, opcode: u8) -> usize {
        self.commands(admin).iter().filter(|c| c.opcode == opcode).count()
    }

    /// Whether a vector's interrupt came since the last look.
    pub(crate) fn interrupted(&self, vector: u16) -> bool {
        let at = usize::from(vector) * 4;
        let came = self.interrupts.load32(at).unwrap() != 0;
        // Cleared before the queue is looked at: what comes later raises it again.
        self.interrupts.store32(at, 0).unwrap();
        came
    }
}

pub(crate) struct QemuDevice {
    qtest: Qtest,
    memory: Memory,
    domain: Domain,
    function: Function,
    bar: u64,
    vectors: u16,
    interrupts_at: u64,
    doorbell_buffers: bool,
    asq: u64,
    aqa: u32,
    watch: Watch,
}

impl QemuDevice {
    pub(crate) fn new(qtest: Qtest, memory: Memory, iommu: &Iommu, port: Function, index: u8) -> Self {
        let bar = BAR + u64::from(index) * 0x10_0000;
        port.open_port(1 + index, bar);
        let function = Function::new(qtest.clone(), 1 + index, 0);
        let mut domain = iommu.attach(1 + index);
        let interrupts = memory.take(1).unwrap();
        let interrupts_at = domain.reserve(&interrupts, DmaRights::ReadWrite).unwrap().0;
        domain.map(Iova(interrupts_at), &interrupts, DmaRights::ReadWrite).unwrap();
        let seen = Arc::default();
        let watch = Watch { seen, port, function: function.clone(), domain: domain.clone(), interrupts };
        let (vectors, asq, aqa) = (0, 0, 0);
        let mut device = Self {
            qtest,
            memory,
            domain,
            function,
            bar,
            vectors,
            interrupts_at,
            doorbell_buffers: false,
            asq,
            aqa,
            watch,
        };
        device.place();
        device
    }

    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// After a reset of the function: its BAR and its vectors, each of which writes its own word. MSI-X must be on before
    /// CC.EN is.
    fn place(&mut self) {
        self.function.write(BAR0, self.bar as u32);
        self.function.write(BAR0 + 4, (self.bar >> 32) as u32);
        self.function.command(0, MEMORY);
        let msix = self.function.capability(CAP_MSIX).expect("MSI-X");
        let control = self.function.read(msix);
        let table = self.function.read(msix + 4);
        assert_eq!(table & 7, 0, "the table is in BAR 0");
        self.vectors = (control >> 16 & 0x7ff) as u16 + 1;
        for vector in 0..u64::from(self.vectors) {
            let entry = self.bar + u64::from(table) + vector * 16;
            self.qtest.write64(entry, self.interrupts_at + vector * 4);
            self.qtest.write64(entry + 8, vector + 1);
        }
        self.function.write(msix, control | 1 << 31);
    }

    fn admin_tail(&mut self, tail: u16) {
        let mut seen = self.watch.seen();
        let before = seen.commands.len();
        seen.rung(0, tail);
        let new: Vec<Command> = seen.commands[before..].iter().map(|(_, command)| *command).collect();
        for command in new.iter().filter(|c| c.opcode == admin::CREATE_SQ) {
            let (id, depth) = (command.cdw10.get() as u16, (command.cdw10.get() >> 16) as u16 + 1);
            let memory = self.domain.window(command.dptr[0].get(), usize::from(depth) * 64);
            let memory = memory.expect("a queue in memory that is mapped");
            seen.queues.insert(id, Queue { memory, depth, tail: 0 });
        }
    }
}

impl Registers for QemuDevice {
    fn read32(&self, offset: u32) -> u32 {
        if offset >= BAR_BYTES {
            return u32::MAX;
        }
        match self.qtest.read32(self.bar + u64::from(offset)) {
            // Where nobody answers, QEMU reads zeroes and a bus all ones.
            0 if self.function.absent() => u32::MAX,
            value => value,
        }
    }

    fn write32(&mut self, offset: u32, value: u32) {
        match offset {
            AQA => self.aqa = value,
            ASQ => self.asq = self.asq >> 32 << 32 | u64::from(value),
            0x2c => {
                self.asq = self.asq & 0xffff_ffff | u64::from(value) << 32;
                let depth = (self.aqa & 0xfff) as u16 + 1;
                if let Some(memory) = self.domain.window(self.asq, usize::from(depth) * 64) {
                    self.watch.seen().queues.insert(0, Queue { memory, depth, tail: 0 });
                }
            }
            DOORBELLS => self.admin_tail(value as u16),
            _ => {}
        }
        if offset < BAR_BYTES {
            self.qtest.write32(self.bar + u64::from(offset), value);
        }
    }
}

impl DmaSpace for QemuDevice {
    fn reserve(&mut self, memory: &Window, rights: DmaRights) -> Result<Iova, DmaError> {
        self.domain.reserve(memory, rights)
    }
    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        self.domain.map(at, memory, rights)
    }
    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        self.domain.unmap(at, len)
    }
}

impl DmaPool for QemuDevice {
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let window = self.memory.take(pages).ok_or(DmaError::NoMemory)?;
        let at = self.domain.reserve(&window, DmaRights::ReadWrite)?;
        self.domain.map(at, &window, DmaRights::ReadWrite)?;
        Ok(DriverMemory::from_pool(window, at))
    }
    fn recycle(&mut self, memory: DriverMemory) {
        let window = memory.window();
        if self.domain.unmap(memory.iova(), window.len() as u64).is_ok() {
            self.memory.give(window);
        }
    }
}

impl Bus for QemuDevice {
    fn vectors(&self) -> u16 {
        self.vectors
    }
    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        if self.function.absent() {
            return Err(DeviceError::Gone);
        }
        self.function.command(MASTER, if on { MASTER } else { 0 });
        Ok(())
    }
    fn reset(&mut self) -> Result<(), DeviceError> {
        if !self.function.reset() {
            return Err(DeviceError::Unsupported);
        }
        self.place();
        self.function.command(0, MASTER);
        Ok(())
    }
    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        let _ = self.master(false);
        self.domain.close();
        Ok(CutOff::seen())
    }
}

struct Doorbells {
    qtest: Qtest,
    at: u64,
    stride: u32,
    queue: u16,
    watch: Watch,
}

impl QueueDoorbells for Doorbells {
    fn submission_tail(&mut self, tail: u16) {
        self.watch.seen().rung(self.queue, tail);
        self.watch.seen().rung += 1;
        self.qtest.write32(self.at, tail.into());
    }
    fn completion_head(&mut self, head: u16) {
        self.watch.seen().rung += 1;
        self.qtest.write32(self.at + u64::from(self.stride), head.into());
    }
}

impl QemuDevice {
    /// Wants doorbells in memory.
    pub(crate) fn with_doorbell_buffers(self) -> Self {
        Self { doorbell_buffers: true, ..self }
    }
}

impl Device for QemuDevice {
    fn doorbell_buffers(&self) -> bool {
        self.doorbell_buffers
    }
    fn registers(&mut self) -> &mut dyn Registers {
        self
    }
    fn dma(&mut self) -> &mut dyn DmaSpace {
        self
    }
    fn pool(&mut self) -> &mut dyn DmaPool {
        self
    }
    fn bus(&mut self) -> &mut dyn Bus {
        self
    }
    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        let at = self.bar + u64::from(DOORBELLS) + u64::from(queue) * 2 * u64::from(stride);
        let (qtest, watch) = (self.qtest.clone(), self.watch.clone());
        Ok(Box::new(Doorbells { qtest, at, stride, queue, watch }))
    }
}
