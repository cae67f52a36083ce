//! The driver and the server core over QEMU's NVMe model: a controller that nobody here wrote.
//!
//! QEMU runs without a guest; its one vCPU is halted. The test is the machine's software: PCI configuration, the IOMMU's tables
//! and MMIO go through the qtest protocol, DMA through the file that is the machine's memory. The controller is behind
//! QEMU's model of a VT-d IOMMU, so an access that was not mapped is a fault, and each test ends by looking for one.
//!
//! * `need`: QEMU must be installed. `machine`: starting it; `qtest`, `qmp`: its two sockets; `memory`: its RAM.
//! * `pci`: configuration space; `iommu`: bus addresses; `device`: the platform's traits over all of it.
//! * `rig`: one controller, one client's memory, real time. `rival`: another host of the same subsystem.
//! * `bringup`, `data`, `queues`, `notices`, `trouble`: the driver.
//! * `server`: control and worker over one controller; `sessions`: what their clients see.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod bringup;
#[expect(dead_code, reason = "the driver's side of a virtqueue, as the tests of recovery have it")]
#[path = "../recovery/client.rs"]
mod client;
mod data;
mod device;
mod iommu;
mod machine;
mod memory;
mod need;
mod notices;
mod pci;
mod qmp;
mod qtest;
mod queues;
mod rig;
mod rival;
mod server;
mod sessions;
mod trouble;
