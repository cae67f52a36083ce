//! A deterministic simulator of the whole server: one process, one thread, one seed.
//!
//! The real `Control`, workers, sessions, factories, driver and software controllers live in a [`world`], with the real vhost-user machine fed by
//! bytes; time, memory, kicks and messages are simulated. Actors, all by the seed, are drivers (honest and hostile), operators, disks and devices.
//! Every step is judged by judges that share no code with what they judge (`judge`).
//!
//! * `world`: roles, controllers, channels, time. `seat`, `calls`: where clients connect. `driver`, `client`, `requests`, `messages`: the other side of it.
//! * `besides`: what only some worlds have; `gpt`: tables of their disks.
//! * `inflight`: drivers that outlive their connection.
//! * `upgrade`, `kill`: one server after the other; `handed`: what goes from one to the next.
//! * `operator`, `spoil`: who makes and takes back, and what goes wrong. `end`: how a run ends.
//! * `search`: runs by chance. `shrink`: a short run that fails in the same way. `small`: all runs of small worlds.
//!
//! doc/simulator.md says how to use it, and what it has found.
#![forbid(unsafe_code)]
#![forbid(clippy::disallowed_methods)]

mod besides;
mod build;
mod calls;
mod client;
mod device;
mod drains;
mod driver;
mod end;
mod gpt;
mod handed;
mod identity;
mod inflight;
mod judge;
mod kill;
mod limits;
mod messages;
mod operator;
mod random;
mod requests;
mod search;
mod seat;
mod setup;
mod shrink;
mod small;
mod spoil;
mod step;
mod storage;
mod tables;
mod upgrade;
mod world;

pub use besides::Besides;
pub use driver::Kind;
pub use judge::{Finding, Judge};
pub use search::{Run, run_bytes, run_restarting, run_seed, run_steps, run_without_restarts};
pub use setup::{Place, Setup};
pub use shrink::shrink;
pub use small::{Seen, Small, exhaust, smalls};
pub use step::{Operation, Spoil, Step, Wish};
