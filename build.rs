//! Tells the programs which commit they are built from and with which features, and links them with defmt's section of strings when they
//! are built with the feature `defmt`.

use std::path::Path;
use std::process::Command;

/// Who builds from an archive can say the commit.
const SAID: &str = "NVME_DRV_COMMIT";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={SAID}");
    let commit = std::env::var(SAID).ok().filter(|said| !said.is_empty()).or_else(commit);
    let has =
        |feature: &&str| std::env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase())).is_some();
    let features: Vec<&str> = ["defmt", "twin"].into_iter().filter(has).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    println!(
        "cargo:rustc-env=NVME_DRV_VERSION={} (commit {}, features: {features})",
        env!("CARGO_PKG_VERSION"),
        commit.as_deref().unwrap_or("unknown"),
    );
    link();
}

/// The commit that is checked out, if these files are a git tree of their own and not merely inside of one. Changes that are not committed
/// are not said: they would have to be looked for in each build.
fn commit() -> Option<String> {
    let folder = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |words: &[&str]| {
        let output = Command::new("git").current_dir(&folder).args(words).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let same =
        |a: &str, b: &str| Some(Path::new(a).canonicalize().ok()? == Path::new(b).canonicalize().ok()?);
    if same(&git(&["rev-parse", "--show-toplevel"])?, &folder) != Some(true) {
        return None;
    }
    // What changes when another commit is checked out or made: HEAD, and the branch that it names, loose or packed.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            let path = Path::new(&folder).join(path);
            if path.exists() {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn link() {
    if std::env::var_os("CARGO_FEATURE_DEFMT").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=homes/frames.x");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg=-T{folder}/homes/frames.x");
    // Without it, a position-independent program is laid out so that it does not start.
    println!("cargo:rustc-link-arg=-Wl,-z,max-page-size=65536");
}
