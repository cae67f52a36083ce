//! What has several steps.

#![forbid(unsafe_code)]

mod bench;

use std::process::ExitCode;

const HELP: &str = "cargo xtask bench    measures the server beside qemu-storage-daemon";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((command, rest)) if command == "bench" => bench::bench(rest),
        _ => Err(HELP.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
