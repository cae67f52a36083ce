//! doc/tenants.md is run: its commands in their order, in one shell, and what it shows is said.

use std::path::Path;
use std::process::{Command, Stdio};

const PAGE: &str = include_str!("../doc/tenants.md");

/// The page's blocks of a kind, with their number among all.
fn blocks() -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in PAGE.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some((true, String::new())),
            (None, "```text") => open = Some((false, String::new())),
            (Some(_), "```") => found.extend(open.take()),
            (Some((_, text)), line) => *text += &format!("{line}\n"),
            (None, _) => (),
        }
    }
    found
}

#[test]
fn the_page_about_tenants_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    let here = |text: &str| text.replace("/run/nvme-drv", &place);
    // The picture comes first.
    let blocks: Vec<(bool, String)> = blocks().into_iter().skip(1).collect();
    let mut script = String::from("set -eu\nexec 2>&1\ntrap 'kill $(jobs -p) || true' EXIT\n");
    for (number, (is_shell, text)) in blocks.iter().enumerate() {
        if *is_shell {
            script += &format!("{}\necho '@@ {number}'\n", here(text));
        }
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_nvme-drv")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("timeout");
    bash.args(["--kill-after=5", "120", "bash", "-c", &script]).env("PATH", path);
    bash.env("NVME_DRV_SVR", format!("{place}/svr")).env("NVME_DRV_CTL", format!("{place}/ctl"));
    let output = bash.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}: {said}\n{log}", output.status);
    let mut shells = 0;
    let mut shown = 0;
    for (number, (is_shell, text)) in blocks.iter().enumerate() {
        if *is_shell {
            shells += 1;
            assert!(said.contains(&format!("@@ {number}\n")), "{said}");
            continue;
        }
        let until = said.split(&format!("@@ {}\n", number - 1)).next().unwrap();
        let section = until.rsplit("@@ ").next().unwrap();
        for line in text.lines() {
            assert!(section.contains(line.trim()), "{line:?} is not in {section:?}");
            shown += 1;
        }
    }
    assert!(shells >= 6 && shown >= 10, "{shells} blocks, {shown} lines");
}
