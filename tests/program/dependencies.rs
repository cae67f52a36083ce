//! What is linked into the server.

use std::path::Path;
use std::process::Command;

/// The crates that a package is built from for Linux, itself among them, as cargo resolves them.
fn linked(package: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "-p", package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// `vhost` brought one with it: it makes random UUIDs for messages that are not served here. Numbers of chance in a server are for
/// nothing, and hide what a run depends on.
#[test]
fn the_server_has_no_generator_of_random_numbers() {
    let crates = linked("nvme-linux-server");
    assert!(crates.iter().any(|name| name == "nvme-core") && crates.len() > 20, "{crates:?}");
    let chance = ["rand", "rand_core", "rand_chacha", "getrandom", "fastrand", "vhost", "vm-memory"];
    let found: Vec<&String> = crates.iter().filter(|name| chance.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{found:?}");
}
