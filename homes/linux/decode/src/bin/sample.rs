//! Speaks through the core's macros from several threads, and writes the frames to the file that it is given.

use std::fs::File;
use std::process::ExitCode;

use nvme_linux::frames::{Tap, register};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else { return ExitCode::from(2) };
    let Ok(file) = File::create(path) else { return ExitCode::from(2) };
    let tap = Tap::new(file.into());
    // No ring yet: goes nowhere.
    nvme_platform::info!("before");
    register();
    nvme_platform::info!("control {} of {}", 1u8, "three");
    let worker = std::thread::spawn(|| {
        register();
        for round in 0u32..1000 {
            nvme_platform::trace!("read {} blocks at {}", round, u64::from(round) << 40);
        }
        nvme_platform::warn!("flag {}", true);
    });
    if worker.join().is_err() {
        return ExitCode::FAILURE;
    }
    let first = tap.drain();
    // More than a ring holds.
    for round in 0u32..100_000 {
        nvme_platform::error!("flood {}", round);
    }
    let second = tap.drain();
    match (first, second) {
        (Ok(0), Ok(lost)) if lost > 0 => {
            println!("{lost}");
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}
