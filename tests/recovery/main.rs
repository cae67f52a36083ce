//! The server core as a whole: control and workers over faulty controllers, in simulated time.
//!
//! `rig` steps everything by hand; `device` is the controller with its place on the bus; `client` is the driver's side.

mod apart;
mod client;
mod device;
mod durability;
mod factories;
mod faults;
mod hanging;
mod health;
mod held;
mod lost;
mod memory;
mod parts;
mod passing;
mod queues;
mod rescans;
mod resets;
mod rig;
mod scanning;
mod shares;
mod spread;
mod threads;
mod timeouts;
mod twins;
mod workers;
