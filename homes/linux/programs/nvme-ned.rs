//! The loader: `lua`.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_ned::main(env!("NVME_DRV_VERSION"))
}
