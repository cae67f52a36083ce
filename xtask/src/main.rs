//! What has several steps.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod libvirt;
#[path = "../../tests/machine/mod.rs"]
#[expect(dead_code, reason = "the tests with virtual machines use more of it")]
mod machine;
mod mutants;
mod newer;
mod package;
mod picture;
mod quickstart;
mod sim;
mod test;
mod units;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask quickstart [IMAGE]  builds, and shows what a session can do and what it cannot
cargo xtask test [WORD...]      runs every test; words go to the test programs
cargo xtask vm [PART...]        runs the server on VFIO, in a virtual machine
cargo xtask sim [WORD...]       runs the whole server by seeds, with judges (doc/simulator.md); --seed N --trace replays
cargo xtask mutants [N...]      plants faults (sim/mutants), one at a time, and says what of the simulator finds each
cargo xtask units               starts the systemd units for real, in a container (as root)
cargo xtask deb                 makes a Debian package in target/deb
cargo xtask package             installs, uses and purges such a package, in a container (as root)
cargo xtask picture             makes doc/top.svg of what nvme-ctl top shows, in tmux
cargo xtask libvirt             runs doc/libvirt.md with a real libvirtd (as root)
cargo xtask newer [STEP...]     runs qtest, vm and xtask vm on Debian's next QEMU and Linux (as root, with debootstrap); -- WORD... to each
cargo xtask bench [--vm]        measures the server beside qemu-storage-daemon; on VFIO, in a virtual machine
cargo xtask bench --neighbours  measures what a client loses beside others that cost the server much";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((command, rest)) => match command.as_str() {
            "quickstart" => quickstart::quickstart(rest),
            "quickstart-client" => demo::client(rest),
            "test" => test::test(rest),
            "vm" => vm::vm(rest),
            "mutants" => mutants::mutants(rest),
            "sim" => sim::sim(rest),
            "units" => units::units(rest),
            "picture" => picture::picture(rest),
            "package" => package::package(rest),
            "deb" => package::deb(rest),
            "newer" => newer::newer(rest),
            "libvirt" => libvirt::libvirt(rest),
            "bench" => bench::bench(rest),
            _ => Err(HELP.into()),
        },
        None => Err(HELP.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or(own.clone(), PathBuf::from)
}
