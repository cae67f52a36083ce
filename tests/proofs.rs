//! The three proofs, and the proof that ends the third, are each made in one place (DESIGN 3). Types cannot say which crate
//! may call a public constructor, so the sources are searched.

use std::fs;
use std::path::{Path, PathBuf};

/// Rust sources of the product: without tests, benches, examples, fuzz targets and the fakes.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let folders = [
        "policy/src",
        "session/src",
        "platform/src",
        "platform/mem/src",
        "soft/src",
        "src",
        "homes/linux/kernel/src",
        "homes/linux/server/src",
        "homes/linux/ctl/src",
    ];
    for folder in folders {
        gather(&root.join(folder), &mut found);
    }
    assert!(found.len() > 100, "only {} sources", found.len());
    let own = |path: &Path| path.strip_prefix(root).unwrap().to_owned();
    found.iter().map(|path| (own(path), code(&fs::read_to_string(path).unwrap()))).collect()
}

fn gather(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            into.push(path);
        }
    }
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name == "fake" || name == "tests" || name.ends_with("_tests")
}

/// What is compiled into the product: no comments, and nothing from the unit tests on, which end a file here.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    lines.collect::<Vec<_>>().join("\n")
}

/// Where a text occurs, with how often, as `path×count`.
fn places(text: &str) -> Vec<String> {
    let mut places: Vec<String> = sources()
        .iter()
        .map(|(path, code)| (path, code.matches(text).count()))
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

#[test]
fn each_proof_is_made_in_one_place() {
    // A struct literal within its own module: `confine`, and the two halves of `split_at`, are the only ones.
    assert_eq!(places("Ok(LbaRange {"), ["policy/src/extent.rs×1"]);
    assert_eq!(places("WritePermit { namespace:"), ["policy/src/grant.rs×1"]);
    assert_eq!(places("DmaRange::mediated("), ["session/src/memory/held.rs×1"]);
    assert_eq!(places("fn mediated("), ["session/src/memory/range.rs×1"]);
}

#[test]
fn what_a_session_may_do_is_said_in_one_place_and_where_disks_are_read() {
    // The catalogue mints, and lets whoever has a whole namespace grow with it; control reads partition tables, and cannot write
    // with what it has.
    let grants = [
        "session/src/factory/catalogue.rs×1",
        "session/src/factory/catalogue/news.rs×1",
        "src/server/control/unit/tables.rs×1",
    ];
    assert_eq!(places("Grant::new("), grants);
    let scan = sources()
        .into_iter()
        .find(|(path, _)| path.ends_with("src/server/control/unit/tables.rs"))
        .unwrap()
        .1;
    assert!(scan.contains("Grant::new(extent, Access::ReadOnly)"));
    // The driver says how large a namespace is; everybody else has parts of that.
    assert_eq!(places("Extent::whole("), ["src/nvme/identify.rs×1"]);
    assert_eq!(places("fn whole("), ["policy/src/extent.rs×1"]);
}

#[test]
fn only_the_driver_s_module_quiet_says_that_a_controller_is_done() {
    assert_eq!(places("Quiet::seen("), ["src/nvme/quiet.rs×3"]);
    assert_eq!(
        places("Self(QuietBy::"),
        ["session/src/memory/range.rs×1"],
        "what the session itself kept back"
    );
    // Generations of queues are proven quiet where the controller is seen to say so.
    for made in ["QueueQuiet::deleted(", "QueueQuiet::reset(", "QueueQuiet::cut_off("] {
        let found = places(made);
        assert!(!found.is_empty(), "{made} is never made");
        assert!(found.iter().all(|place| place.starts_with("src/nvme/")), "{made} in {found:?}");
    }
}

#[test]
fn only_homes_cut_devices_off_and_make_driver_memory() {
    for made in ["CutOff::seen(", "DriverMemory::from_pool("] {
        let found = places(made);
        assert!(!found.is_empty(), "{made} is never made");
        let home = |place: &String| place.starts_with("soft/") || place.starts_with("homes/linux/kernel/");
        assert!(found.iter().all(home), "{made} in {found:?}");
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

#[test]
fn unsafe_code_is_where_it_may_be() {
    let homes = ["platform/mem/", "homes/linux/kernel/"];
    for (path, code) in sources() {
        if !homes.iter().any(|home| path.starts_with(home)) {
            let lines = code.lines().filter(|line| !line.starts_with("#!["));
            let found = lines.filter(|line| line.contains("unsafe ")).count();
            assert_eq!(found, 0, "{} lines of unsafe code in {}", found, path.display());
        }
    }
    for root in ["policy", "session", "platform", "soft"] {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join("src/lib.rs")).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root}");
    }
}
