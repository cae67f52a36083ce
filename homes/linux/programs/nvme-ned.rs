//! The loader: `lua`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_ned::main()
}
