//! `cargo xtask test`: every test of the workspace, and what is no test: formatting, lints, the core without std.

use std::error::Error;
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What some tests need besides Rust and a C compiler: a program, and which tests.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "the tests with virtual machines (tests/vm)"),
    ("qemu-system-x86_64", "the driver and the core over QEMU's controller (tests/qtest)"),
    ("busybox", "the tests with virtual machines (tests/vm)"),
    ("fio", "the tests with virtual machines (tests/vm)"),
    ("mkfs.ext4", "the tests with virtual machines (tests/vm)"),
    ("sgdisk", "partition tables made by sgdisk (tests/disk_tables)"),
    ("sfdisk", "partition tables made by sfdisk (tests/disk_tables)"),
    ("qemu-storage-daemon", "the test client against another server (tests/client)"),
    ("systemd-analyze", "the check of the systemd units (systemd/)"),
];

pub(crate) fn test(args: &[String]) -> Result<()> {
    let skipped = skipped();
    for line in &skipped {
        println!("{line}");
    }
    if args.is_empty() {
        optional("rustfmt", &["fmt", "--all", "--check"])?;
        optional("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    }
    let mut tests = vec!["test", "--workspace", "--no-fail-fast"];
    if !args.is_empty() {
        tests.push("--");
        tests.extend(args.iter().map(String::as_str));
    }
    cargo(&tests)?;
    if args.is_empty() {
        // Builds of their own: trace points as frames, and the program that decodes them.
        cargo(&["test", "-p", "nvme-drv", "--features", "defmt", "--test", "frames"])?;
        cargo(&["test", "-p", "nvme-decode", "--features", "sample", "--test", "decode"])?;
        core_without_std()?;
    }
    // Once more, where they are seen.
    for line in &skipped {
        println!("{line}");
    }
    Ok(())
}

/// One line for each kind of test that cannot run here. In CI that is a failure of these tests.
fn skipped() -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing = |program: &str| !folders.iter().any(|folder| folder.join(program).is_file());
    let packages = include_str!("../../.ci/packages").lines().filter_map(|line| line.split('#').next());
    let packages: Vec<&str> = packages.map(str::trim).filter(|name| !name.is_empty()).collect();
    let packages = packages.join(" ");
    let line = |(program, what): &(&str, &str)| {
        missing(program).then(|| {
            format!(
                "skipped: {what}, for want of {program}: apt-get install --no-install-recommends {packages}"
            )
        })
    };
    PROGRAMS.iter().filter_map(line).collect()
}

/// A check by a component of the toolchain that may not be installed.
fn optional(component: &str, words: &[&str]) -> Result<()> {
    let cargo_word = words.first().copied().unwrap_or_default();
    let there = Command::new(program()).args([cargo_word, "--version"]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return cargo(words);
    }
    println!("skipped: cargo {cargo_word}: rustup component add {component}");
    Ok(())
}

/// Builds `tests/nostd`, and links all of it into a shared object with nothing but libc's memory functions. What would
/// need std has no place to come from.
fn core_without_std() -> Result<()> {
    let target = crate::root().join("target/nostd");
    let target = target.to_str().ok_or("the path of the target folder is not UTF-8")?;
    cargo(&["build", "--quiet", "--manifest-path", "tests/nostd/Cargo.toml", "--target-dir", target])?;
    let archive = format!("{target}/debug/libnostd.a");
    let linked = format!("{target}/debug/nostd.so");
    // Unwinding is in the precompiled core and alloc only; a panic ends the program before it comes to that.
    let unwinding = ["-Wl,--defsym=rust_eh_personality=0", "-Wl,--defsym=_Unwind_Resume=0"];
    let words = ["-shared", "-nostdlib", "-Wl,-z,defs", "-o", &linked];
    let inputs = ["-Wl,--whole-archive", &archive, "-Wl,--no-whole-archive", "-lc", "-lgcc"];
    let status = Command::new("cc").args(unwinding).args(words).args(inputs).status()?;
    if !status.success() {
        return Err("the core does not link without std".into());
    }
    let bytes = std::fs::read(&linked)?;
    let mangled = b"_3std";
    if bytes.windows(mangled.len()).any(|window| window == mangled) {
        return Err("the library without std holds symbols of std".into());
    }
    println!("the core links without std");
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    println!("cargo {}", args.join(" "));
    let status = Command::new(program()).current_dir(crate::root()).args(args).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} ended with {status}", args.join(" ")).into())
    }
}

fn program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
