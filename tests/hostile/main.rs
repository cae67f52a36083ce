//! Hostile clients against the server's process.
//!
//! In each test a *bystander* writes and reads, with other clients' eyes on what it gets, while another client
//! does what no honest one would. The bystander's I/O goes on; nothing outside the hostile client's own memory and
//! partition changes; the server lives, still serves, and ends in order when it is told to ([`rig::attack`]).
//!
//! * [`rig`]: the server and what must hold. [`disk`]: images. [`bystander`], [`raw`]: the two clients.
//! * [`chains`], [`buffers`], [`requests`], [`races`]: what is in a ring. [`protocol`], [`regions`], [`files`],
//!   [`vanishing`], [`slow`], [`closing`], [`touching`], [`telling`], [`trusted`], [`lifetime`]: vhost-user. [`factory`], [`floods`]: the server's own sockets. [`delegation`], [`tenants`]: attenuated factories. [`tables`],
//!   [`broken`]: what is on the disk.

#![forbid(unsafe_code)]

mod bystander;
mod delegation;
mod disk;
mod raw;
mod rig;

mod broken;
mod buffers;
mod chains;
mod closing;
mod factory;
mod files;
mod floods;
mod lifetime;
mod protocol;
mod races;
mod regions;
mod requests;
mod slow;
mod tables;
mod telling;
mod tenants;
mod touching;
mod trusted;
mod vanishing;
