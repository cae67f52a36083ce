//! The software controller behind the model's registers.

use std::sync::{Arc, Mutex};

use nvme_l4re::model::bus::Behind;
use nvme_platform::{Device, Time};
use nvme_soft::{Config, Engine, Interrupts, MemoryMedium, NamespaceConfig, SoftDevice, SoftHandle};

struct Raised(Arc<Mutex<Vec<u16>>>);

impl Interrupts for Raised {
    fn raise(&self, vector: u16) {
        self.0.lock().unwrap().push(vector);
    }
}

pub(crate) struct Soft {
    device: SoftDevice,
    engine: Engine,
    raised: Arc<Mutex<Vec<u16>>>,
}

impl Soft {
    /// A controller with one namespace of 8 MiB, which runs when a doorbell is written.
    pub(crate) fn new(serial: &str) -> (Self, SoftHandle) {
        let raised = Arc::default();
        let config = Config {
            serial: serial.into(),
            namespaces: vec![NamespaceConfig::new(Arc::new(MemoryMedium::new(8 << 20).unwrap()))],
            namespaces_max: 1,
            queues: 16,
            vectors: 16,
            interrupts: Some(Box::new(Raised(Arc::clone(&raised)))),
            apart: Some(Box::new(|| ())),
            ..Config::default()
        };
        let device = SoftDevice::new(config).unwrap();
        let (engine, handle) = (device.engine(), device.handle());
        (Self { device, engine, raised }, handle)
    }
}

impl Behind for Soft {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.device
    }

    fn written(&mut self) {
        while self.engine.run(64, Time::from_nanos(1)).is_some() {}
    }

    fn raised(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.raised.lock().unwrap())
    }
}
