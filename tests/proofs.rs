//! The three proofs, and the proof that ends the third, are each made in one place. Within its crate a proof is guarded by privacy; what
//! another crate must be able to call is guarded by the lint `clippy::disallowed_methods` (`clippy.toml`), which resolves names. Here is shown that
//! this check refuses forged proofs, and listed where it is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders that the product is made of.
const PRODUCT: [&str; 10] = [
    "policy/src",
    "session/src",
    "src",
    "platform/src",
    "platform/mem/src",
    "soft/src",
    "homes/linux",
    "homes/l4re",
    "lua/src",
    "xtask/src",
];

/// Rust sources of the product: without tests, benches, examples, fuzz targets.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in PRODUCT {
        gather(&root.join(folder), &mut found);
    }
    assert!(found.len() > 300, "only {} sources", found.len());
    let own = |path: &Path| path.strip_prefix(root).unwrap().to_owned();
    found.iter().map(|path| (own(path), code(&fs::read_to_string(path).unwrap()))).collect()
}

fn gather(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["tests", "target", "examples"].contains(&name) {
            gather(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            into.push(path);
        }
    }
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name == "tests" || name.ends_with("_tests")
}

/// What is compiled into the product: no comments, and nothing from the unit tests on, which end a file here.
fn code(text: &str) -> String {
    let tests = text.find("mod tests {").and_then(|at| text[..at].rfind("#[cfg(test)]\n"));
    let product = &text[..tests.unwrap_or(text.len())];
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    lines.collect::<Vec<_>>().join("\n")
}

/// Where a text occurs, with how often, as `path×count`. White space does not count.
fn places(text: &str) -> Vec<String> {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let text = dense(text);
    let mut places: Vec<String> = sources()
        .iter()
        .map(|(path, code)| (path, dense(code).matches(text.as_str()).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(path, count)| format!("{}×{count}", path.display()))
        .collect();
    places.sort();
    places
}

/// The attributes and the body of a type's definition.
fn definition(path: &str, name: &str) -> (String, String) {
    let (_, code) = sources().into_iter().find(|(p, _)| p == Path::new(path)).unwrap();
    let at = code.find(&format!("pub struct {name}")).unwrap_or_else(|| panic!("no {name} in {path}"));
    let (before, behind) = code.split_at(at);
    let attributes = before.rsplit("\n\n").next().unwrap().to_owned();
    let end = behind.find("\n}").unwrap_or(behind.len()).min(behind.find(";\n").unwrap_or(behind.len()));
    (attributes, behind[..end].to_owned())
}

/// Every place where the check of proofs is opened. A new one belongs into this list, and so into a review.
#[test]
fn each_place_that_may_make_a_proof_is_listed() {
    let opened = [
        "homes/l4re/kernel/src/bus/device.rs×1",
        "homes/l4re/kernel/src/dma/pool.rs×2",
        "homes/linux/kernel/src/vfio/device.rs×1",
        "homes/linux/kernel/src/vfio/space.rs×1",
        "platform/src/fake.rs×1",
        "session/src/factory/catalogue/delegate.rs×1",
        "session/src/factory/catalogue/news.rs×1",
        "soft/src/device.rs×2",
        "src/nvme/controller/identify.rs×1",
        "src/nvme/quiet.rs×3",
        "src/server/control/unit/tables.rs×1",
    ];
    assert_eq!(places("expect(clippy::disallowed_methods"), opened);
    assert_eq!(places("allow(clippy::disallowed_methods"), [""; 0]);
}

/// Crates that make no proof cannot open the check at all. (Where clap derives, which opens groups of lints for its own code, they are
/// denied it, as all are.)
#[test]
fn crates_that_make_no_proof_forbid_it() {
    let forbid = "forbid(clippy::disallowed_methods)";
    for root in [
        "policy/src/lib.rs",
        "platform/mem/src/lib.rs",
        "homes/linux/server/src/lib.rs",
        "homes/linux/programs/nvme-drv.rs",
        "homes/linux/programs/nvme-ctl.rs",
        "homes/linux/programs/nvme-ned.rs",
        "homes/linux/programs/nvme-decode.rs",
        "homes/l4re/server/src/lib.rs",
    ] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(root)).unwrap();
        assert!(text.contains(forbid), "{root}");
    }
    // Not a member of the workspace: its lints are its own.
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("homes/l4re/program/Cargo.toml");
    assert!(fs::read_to_string(program).unwrap().contains("disallowed_methods = \"forbid\""));
}

/// What the check of a commit says of one piece of code in `tests/forging`.
fn check(feature: &str) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["clippy", "--quiet", "--offline", "-p", "nvme-forging", "--features", feature])
        .args(["--target-dir", "target/forging", "--", "-D", "warnings"])
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn a_forged_proof_an_alias_of_it_and_unsafe_code_in_a_wrong_module_fail_the_check() {
    if let Err(said) = check("") {
        assert!(said.contains("no such command"), "the check fails without a forgery: {said}");
        assert!(std::env::var_os("CI").is_none(), "the check needs clippy: rustup component add clippy");
        eprintln!("skipped: no clippy: rustup component add clippy");
        return;
    }
    for (feature, method) in [
        ("quiet", "nvme_session::memory::Quiet::seen"),
        ("alias", "nvme_session::memory::Quiet::seen"),
        ("pointer", "nvme_session::memory::Quiet::seen"),
        ("cut-off", "nvme_platform::CutOff::seen"),
        ("driver-memory", "nvme_platform::DriverMemory::from_pool"),
        ("grant", "nvme_policy::Grant::new"),
        ("extent", "nvme_policy::Extent::whole"),
    ] {
        let said = check(feature).expect_err(feature);
        let wanted = format!("use of a disallowed method `{method}`");
        assert!(said.contains(&wanted), "{feature}: {said}");
    }
    let said = check("unsafe-block").expect_err("unsafe code");
    assert!(said.contains("usage of an `unsafe` block"), "{said}");
}

/// What is minted through a factory is what its ceiling admitted. Elsewhere a policy is made from values in two places: what another server
/// had minted, which is held against its factory; and the one disk of a back-end program, which has no factory.
#[test]
fn a_policy_is_made_under_a_ceiling_and_where_else_is_listed() {
    assert_eq!(places("Ok(Policy {"), ["policy/src/ceiling.rs×1"]);
    assert_eq!(
        places("Policy::new("),
        ["homes/linux/handover/src/words.rs×1", "homes/linux/server/src/backend.rs×1"]
    );
    assert_eq!(places("self.ceiling(factory)?.holds(policy)"), ["session/src/factory/catalogue/adopt.rs×1"]);
}

/// Within their crates proofs are made by struct literals, which privacy keeps in their own module.
#[test]
fn each_proof_is_made_in_one_place() {
    // `confine`, and the two halves of `split_at`, are the only ones.
    assert_eq!(places("Ok(LbaRange {"), ["policy/src/extent.rs×1"]);
    // The struct itself, and the one literal.
    assert_eq!(places("WritePermit { namespace:"), ["policy/src/grant.rs×2"]);
    assert_eq!(places("DmaRange::mediated("), ["session/src/memory/account.rs×1"]);
    assert_eq!(places("fn mediated("), ["session/src/memory/range.rs×1"]);
    // What the session itself kept back.
    assert_eq!(places("Self(QuietBy::"), ["session/src/memory/range.rs×1"]);
    // Generations of queues are proven quiet where the controller is seen to say so.
    for made in ["QueueQuiet::deleted(", "QueueQuiet::reset(", "QueueQuiet::cut_off("] {
        let found = places(made);
        assert!(!found.is_empty(), "{made} is never made");
        assert!(found.iter().all(|place| place.starts_with("src/nvme/")), "{made} in {found:?}");
    }
}

#[test]
fn proofs_are_neither_copied_nor_made_from_bytes_nor_open() {
    let proofs = [
        ("policy/src/extent.rs", "LbaRange"),
        ("policy/src/grant.rs", "WritePermit"),
        ("session/src/memory/range.rs", "DmaRange"),
        ("session/src/memory/range.rs", "Quiet"),
        ("platform/src/device.rs", "CutOff"),
        ("platform/src/dma.rs", "DriverMemory"),
    ];
    for (path, name) in proofs {
        let (attributes, body) = definition(path, name);
        for bad in ["Clone", "Copy", "Default", "FromBytes", "Deserialize"] {
            assert!(!attributes.contains(bad), "{name} is {bad}");
            assert_eq!(places(&format!("{bad} for {name}")), [""; 0], "{name} is {bad}");
        }
        let fields = body.split_once(['{', '(']).unwrap().1;
        assert!(!fields.contains("pub"), "{name} has open fields");
    }
}

/// The modules that were opened for unsafe code, by folder. All else is denied it by the workspace's lints, or forbids it.
#[test]
fn unsafe_code_is_where_it_may_be() {
    let opened = places("#![expect(unsafe_code");
    let (homes, rest): (Vec<_>, Vec<_>) = opened.iter().partition(|place| place.starts_with("homes/"));
    assert_eq!(
        rest,
        [
            "platform/mem/src/entry.rs×1",
            "platform/mem/src/heap.rs×1",
            "platform/mem/src/table.rs×1",
            "platform/mem/src/window.rs×1"
        ]
    );
    let kernel_sides = ["homes/linux/kernel/src/", "homes/l4re/kernel/src/", "homes/l4re/program/src/"];
    assert!(homes.iter().all(|place| kernel_sides.iter().any(|side| place.starts_with(side))), "{homes:?}");
    assert_eq!(
        places("expect(unsafe_code").len(),
        opened.len(),
        "a module is opened as a whole, at its head"
    );
    assert_eq!(places("allow(unsafe_code"), [""; 0]);
    for root in [
        "policy/src",
        "session/src",
        "src",
        "platform/src",
        "soft/src",
        "lua/src",
        "homes/linux/server/src",
        "homes/linux/ctl/src",
        "homes/l4re/server/src",
    ] {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join("lib.rs")).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root}");
    }
}
