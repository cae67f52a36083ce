//! A controller as real ones are: it works by itself, and only an interrupt says that it did something.

use std::sync::{Arc, Mutex};

use nvme_platform::{Bus, Device, DeviceError, DmaPool, DmaSpace, QueueDoorbells, Registers, Time};

type Queue = Arc<Mutex<Box<dyn QueueDoorbells>>>;

/// What executes the commands of software controllers, apart from the server.
#[derive(Clone, Default)]
pub(crate) struct Engine(Arc<Mutex<Vec<Queue>>>);

impl Engine {
    /// Does what is due; says when it wants to go on.
    pub(crate) fn run(&self, now: Time) -> Option<Time> {
        let mut queues = self.0.lock().unwrap();
        queues.retain(|queue| Arc::strong_count(queue) > 1);
        queues.iter().filter_map(|queue| queue.lock().unwrap().run(64, now)).min()
    }
}

/// A software controller that an engine runs.
pub(crate) struct Quiet<D>(pub(crate) D, pub(crate) Engine);

struct Doorbells(Queue);

impl QueueDoorbells for Doorbells {
    fn submission_tail(&mut self, tail: u16) {
        self.0.lock().unwrap().submission_tail(tail);
    }

    fn completion_head(&mut self, head: u16) {
        self.0.lock().unwrap().completion_head(head);
    }
}

impl<D: Device> Device for Quiet<D> {
    fn registers(&mut self) -> &mut dyn Registers {
        self.0.registers()
    }

    fn dma(&mut self) -> &mut dyn DmaSpace {
        self.0.dma()
    }

    fn pool(&mut self) -> &mut dyn DmaPool {
        self.0.pool()
    }

    fn bus(&mut self) -> &mut dyn Bus {
        self.0.bus()
    }

    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        let queue = Arc::new(Mutex::new(self.0.doorbells(queue, stride)?));
        self.1.0.lock().unwrap().push(Arc::clone(&queue));
        Ok(Box::new(Doorbells(queue)))
    }
}
