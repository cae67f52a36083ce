//! The Linux home.

pub mod clientmem;
pub mod inventory;
pub mod spawn;
