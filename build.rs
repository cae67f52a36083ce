//! Links the programs with defmt's section of strings when they are built with the feature `defmt`, and does nothing else.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_DEFMT").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=homes/frames.x");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg=-T{folder}/homes/frames.x");
    // Without it, a position-independent program is laid out so that it does not start.
    println!("cargo:rustc-link-arg=-Wl,-z,max-page-size=65536");
}
