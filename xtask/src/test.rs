//! `cargo xtask test`: every test of the workspace, and checks that are no tests: formatting, lints, the core without
//! std.

use std::error::Error;
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) fn test(args: &[String]) -> Result<()> {
    let mut tests = vec!["test", "--workspace", "--quiet"];
    if !args.is_empty() {
        tests.push("--");
        tests.extend(args.iter().map(String::as_str));
    }
    cargo(&tests)?;
    if !args.is_empty() {
        return Ok(());
    }
    // The core, for a target without std: a static library that is linked into a program without the standard library.
    core_without_std()
}

fn core_without_std() -> Result<()> {
    cargo(&["build", "--quiet", "--manifest-path", "tests/nostd/Cargo.toml"])?;
    println!("the core links without std");
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    println!("cargo {}", args.join(" "));
    let status = Command::new(cargo).current_dir(crate::root()).args(args).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} ended with {status}", args.join(" ")).into())
    }
}
