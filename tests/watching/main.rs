//! What an operator sees of a server at work, and what is held back there: the real server, `nvme-ctl`, and clients that ask for much.

#![forbid(unsafe_code)]

#[path = "../hostile/disk.rs"]
#[expect(dead_code, reason = "the hostile tests use more of it")]
mod disk;
#[path = "../program/server.rs"]
#[expect(dead_code, reason = "the tests of the program use more of it")]
mod server;

mod counters;
mod errors;
mod limits;
mod listing;
mod metrics;
mod names;
mod slow;
mod top;
mod waiting;

use std::process::{Command, Output, Stdio};

use nvme_linux::inventory::Inventory;

use crate::server::Bench;

fn nvme_ctl(bench: &Bench, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-ctl"));
    for name in ["svr", "ctl", "admin"] {
        command.env(format!("NVME_DRV_{}", name.to_uppercase()), bench.path(name));
    }
    command.args(words).stdin(Stdio::null());
    command
}

fn run(bench: &Bench, words: &[&str]) -> Output {
    nvme_ctl(bench, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn inventory(bench: &Bench) -> Inventory {
    let output = run(bench, &["ls", "--json"]);
    Inventory::from_json(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)))
}
