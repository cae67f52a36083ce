//! `cargo xtask test`: every test of the workspace, and what is no test: formatting, lints, the core without std.

use std::error::Error;
use std::path::PathBuf;
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

/// What the program for L4Re may ask of L4Re's C libraries (homes/l4re/kernel/src/sys), besides libc's memory functions.
const L4RE: &[&str] = &[
    "l4re_global_env",
    "l4_global_kip",
    "l4re_util_cap_alloc",
    "l4re_util_cap_free_um",
    "l4re_log_printn_srv",
    "l4re_ma_alloc_align_srv",
    "l4re_ds_info",
    "l4re_rm_attach_srv",
    "l4re_rm_detach_srv",
    "l4re_dma_space_map",
    "l4re_dma_space_unmap",
    "l4vbus_get_next_device",
    "l4vbus_get_device_by_hid",
    "l4vbus_get_resource",
    "l4vbus_vicu_get_cap",
    "l4vbus_assign_dma_domain",
    "l4vbus_pcidev_cfg_read",
    "l4vbus_pcidev_cfg_write",
    "l4vbus_pcidev_irq_enable",
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
        // Builds of their own: trace points as frames, from controllers that complete out of order; and the program that decodes them.
        cargo(&["test", "-p", "nvme-drv", "--features", "defmt,twin", "--test", "frames"])?;
        two_builds()?;
        cargo(&["test", "-p", "nvme-decode", "--features", "sample", "--test", "decode"])?;
        core_without_std()?;
        program_for_l4re()?;
    }
    // Once more, where they are seen.
    for line in &skipped {
        println!("{line}");
    }
    Ok(())
}

/// The server with trace points as frames whose controllers complete out of order, which was just built: it is killed, and it and the one
/// without take over from each other.
fn two_builds() -> Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from);
    let other = target.join("debug/nvme-drv-frames");
    std::fs::copy(target.join("debug/nvme-drv"), &other)?;
    let words = [
        "test",
        "--workspace",
        "--test",
        "program",
        "--",
        "--ignored",
        "two_builds",
        "complete_out_of_order",
    ];
    println!("cargo {}", words.join(" "));
    let mut cargo = Command::new(program());
    let status = cargo.current_dir(crate::root()).args(words).env("NVME_DRV_OTHER", &other).status()?;
    if status.success() {
        Ok(())
    } else {
        Err("two builds do not take over from each other, or do not outlive kills".into())
    }
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

/// Builds `tests/nostd`, and links all of it with nothing but libc's memory functions.
fn core_without_std() -> Result<()> {
    let target = crate::root().join("target/nostd");
    let target = target.to_str().ok_or("the path of the target folder is not UTF-8")?;
    cargo(&["build", "--quiet", "--manifest-path", "tests/nostd/Cargo.toml", "--target-dir", target])?;
    link(&format!("{target}/debug/libnostd.a"), &["rust_eh_personality", "_Unwind_Resume"])?;
    println!("the core links without std");
    Ok(())
}

/// Builds the program for L4Re, and links it with nothing but libc's memory functions and the names of what it takes from L4Re.
fn program_for_l4re() -> Result<()> {
    let target = crate::root().join("target/l4re");
    let target = target.to_str().ok_or("the path of the target folder is not UTF-8")?;
    let manifest = ["--manifest-path", "homes/l4re/program/Cargo.toml", "--target-dir", target, "--locked"];
    optional("rustfmt", &["fmt", "--manifest-path", "homes/l4re/program/Cargo.toml", "--check"])?;
    let sys = [
        "clippy",
        "--quiet",
        "-p",
        "nvme-l4re",
        "--features",
        "sys",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    optional("clippy", &sys)?;
    optional("clippy", &[&["clippy", "--quiet"], &manifest[..], &["--", "-D", "warnings"]].concat())?;
    let frames = ["--features", "defmt", "--", "-D", "warnings"];
    optional("clippy", &[&["clippy", "--quiet"], &manifest[..], &frames].concat())?;
    cargo(&[&["build", "--quiet"], &manifest[..]].concat())?;
    link(&format!("{target}/debug/libnvme_drv_l4re.a"), &[L4RE, &["_Unwind_Resume"]].concat())?;
    println!("the program for L4Re links with what L4Re has");
    Ok(())
}

/// Links all of an archive into a shared object with libc's memory functions and these names. What would need std has no place
/// to come from. (Unwinding is in the precompiled core and alloc only; a panic ends the program before it comes to that.)
fn link(archive: &str, names: &[&str]) -> Result<()> {
    let linked = format!("{archive}.so");
    let defined = names.iter().map(|name| format!("-Wl,--defsym={name}=0"));
    let words = ["-shared", "-nostdlib", "-Wl,-z,defs", "-o", &linked];
    let inputs = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", "-lc", "-lgcc"];
    let status = Command::new("cc").args(defined).args(words).args(inputs).status()?;
    if !status.success() {
        return Err(format!("{archive} does not link without std").into());
    }
    let bytes = std::fs::read(&linked)?;
    let mangled = b"_3std";
    if bytes.windows(mangled.len()).any(|window| window == mangled) {
        return Err(format!("{archive} holds symbols of std").into());
    }
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
