//! Frames as text: `homes/linux/decode`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_decode::main()
}
