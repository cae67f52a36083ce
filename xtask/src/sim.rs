//! The simulator: `sim/` built for speed, with all checks, and run.

use std::process::Command;

use crate::root;

/// `cargo xtask sim WORD…`: the words are the simulator's own.
pub(crate) fn sim(words: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .current_dir(root())
        .args(["run", "--quiet", "--profile", "sim", "-p", "nvme-sim", "--bin", "nvme-sim", "--"])
        .args(words)
        .status();
    match run {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the simulator: {status}").into()),
        Err(why) => Err(format!("cargo does not start: {why}").into()),
    }
}
