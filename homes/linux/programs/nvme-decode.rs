//! Frames as text: `homes/linux/decode`.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_decode::main(env!("NVME_DRV_VERSION"))
}
