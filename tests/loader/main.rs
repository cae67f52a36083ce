//! The loader, run as a program.
//!
//! `fake` and `scripts` hold what needs no NVMe server: the tests' own program plays `nvme-drv` under that name, and reports what it
//! was started with. `real` runs the manual's examples and ours against the real server: the one of this build,
//! or the file that `NVME_DRV` names.

#![forbid(unsafe_code)]

mod fake;
mod fake_server;
mod ned;
mod real;
mod scripts;

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    if name.ends_with("nvme-drv") {
        return fake_server::serve();
    }
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = fake::trials().into_iter().chain(scripts::trials()).chain(real::trials()).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
