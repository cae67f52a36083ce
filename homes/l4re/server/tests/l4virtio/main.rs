//! The server above a model of the kernel, with clients that are played by the book of L4virtio, over software controllers.
//!
//! `rig` is the machine, `quiet` a controller that only interrupts tell of, `driver` a driver as L4Re's own client is one. `talk`: what objects answer. `data`: requests. `memory`: dataspaces.
//! `ceilings`: what factories refuse, and when they go. `status`: the device's status and queue. `ends`: clients that die, and who comes after them. `fixed`: static clients.
//! `pending`: calls that take time. `tenants`: what one learns of another, or has too much of.
//! `stats`: what the log says of sessions. `hostile`: a client that does anything. `changes`: devices that grow and go. `turns`: the loop. `vanishing`: memory that is deleted.

mod ceilings;
mod changes;
mod data;
mod driver;
mod ends;
mod factories;
mod fixed;
mod hostile;
mod memory;
mod pending;
mod quiet;
mod rig;
mod stats;
mod status;
mod talk;
mod tenants;
mod turns;
mod vanishing;
