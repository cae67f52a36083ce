//! Asks a server: `homes/linux/ctl`.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_ctl::main(env!("NVME_DRV_VERSION"))
}
