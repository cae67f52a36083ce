//! The server: `homes/linux/server`.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_linux_server::main(env!("NVME_DRV_VERSION"))
}
