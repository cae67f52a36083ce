//! Links the sample as a defmt build of the server is linked.

fn main() {
    println!("cargo:rerun-if-changed=../../frames.x");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let sample = "cargo:rustc-link-arg-bin=nvme-decode-sample";
    if std::env::var_os("CARGO_FEATURE_SAMPLE").is_some() {
        // defmt compiles in errors only, unless told otherwise.
        println!("cargo:rustc-env=DEFMT_LOG=trace");
        println!("{sample}=-T{folder}/../../frames.x");
        // Without it, a position-independent program is laid out so that it does not start.
        println!("{sample}=-Wl,-z,max-page-size=65536");
    }
}
