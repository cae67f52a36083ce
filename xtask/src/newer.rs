//! `cargo xtask newer [WORD...] [-- WORD...]`: the suites `qtest` and `vm` and `cargo xtask vm` on the QEMU and the kernel of Debian's next release and its
//! backports, in a root of their own. By hand, as it downloads a system; the next versions are one command away.
//!
//! The root is made by debootstrap, once, in target/newer, and brought up to date each time. What is run in it is what this machine built: the
//! source tree and the toolchain are bound to the same places. Words choose steps; without any, all are run. What stands after `--` is told to
//! each of them besides: `cargo xtask newer vm -- notices_nothing_of_killed` runs the tests of that name.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RELEASE: &str = "trixie";
/// From backports; all else is the release's.
const NEWER: [&str; 3] = ["qemu-system-x86", "qemu-system-data", "linux-image-amd64"];
/// What those of .ci/packages are that the suites here need there, and what unpacks its kernels.
const PACKAGES: [&str; 15] = [
    "busybox-static",
    "kmod",
    "xz-utils",
    "zstd",
    "e2fsprogs",
    "gdisk",
    "fdisk",
    "parted",
    "pciutils",
    "systemd",
    "fio",
    "binutils",
    "procps",
    "gcc",
    "libc6-dev",
];

/// A step: its name, and what is run: a test program of ours, or this program.
enum Step {
    Test(&'static str),
    Own(&'static [&'static str]),
}

const STEPS: [(&str, Step); 4] = [
    ("qtest", Step::Test("qtest")),
    ("vm", Step::Test("vm")),
    ("vfio", Step::Own(&["vm"])),
    ("vfio-amd", Step::Own(&["vm", "--amd-iommu"])),
];

pub(crate) fn newer(args: &[String]) -> Result<()> {
    let (args, besides) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    if let Some(unknown) = args.iter().find(|arg| STEPS.iter().all(|(name, _)| name != arg)) {
        let names = STEPS.map(|(name, _)| name).join(" ");
        return Err(format!("{unknown} is no step; there are: {names}").into());
    }
    let root = crate::root().join("target/newer").join(RELEASE);
    make(&root)?;
    // All that is built is built here, by this machine's compiler.
    crate::vm::machine::build(&["nvme-drv", "nvme-client"], false)?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        if !args.is_empty() && !args.iter().any(|arg| arg == name) {
            continue;
        }
        let begin = Instant::now();
        let (program, words) = match step {
            Step::Test(test) => (built(test)?, Vec::new()),
            Step::Own(words) => (std::env::current_exe()?, words.to_vec()),
        };
        let words: Vec<&str> = words.into_iter().chain(besides.iter().map(String::as_str)).collect();
        let good = inside(&root, &program, &words)?;
        println!("{} {name}: {:.0} s", if good { "ok    " } else { "FAILED" }, begin.elapsed().as_secs_f64());
        if !good {
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed there: {}", failed.join(", ")).into()) }
}

/// The root, as new as its mirror.
fn make(root: &Path) -> Result<()> {
    if !root.join("etc/debian_version").exists() {
        fs::create_dir_all(root)?;
        println!("debootstrap {RELEASE} into {}", root.display());
        run(Command::new("debootstrap").args(["--variant=minbase", RELEASE]).arg(root))?;
    }
    // From where debootstrap took the release.
    let lists = fs::read_to_string(root.join("etc/apt/sources.list"))?;
    let of_release = lists.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "deb").skip(1);
        let mirror = words.find(|word| word.contains("://"))?;
        words.next().is_some_and(|release| release == RELEASE).then_some(mirror)
    });
    let mirror = of_release.ok_or("the root's sources.list does not say where its packages come from")?;
    let backports = format!("deb {mirror} {RELEASE}-backports main\n");
    fs::write(root.join("etc/apt/sources.list.d/backports.list"), backports)?;
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    let apt = |words: &[&str]| -> Result<()> {
        let mut command = Command::new("chroot");
        command.arg(root).args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]).args(words);
        run(&mut command)
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], PACKAGES.as_slice()].concat())?;
    let backports = format!("{RELEASE}-backports");
    apt(&[&["install", "--no-install-recommends", "-t", &backports], NEWER.as_slice()].concat())?;
    let about = Command::new("chroot").arg(root).args(["qemu-system-x86_64", "--version"]).output()?;
    print!("{}", String::from_utf8_lossy(&about.stdout).lines().next().unwrap_or_default());
    println!();
    Ok(())
}

/// Quiet, unless it fails.
fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|why| format!("{:?}: {why}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()).into())
}

/// The test program that cargo made of `tests/NAME`.
fn built(test: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::root());
    command.args(["test", "--no-run", "-p", "nvme-drv", "--message-format=json", "--quiet", "--test", test]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the tests of tests/{test} do not build").into());
    }
    // Its name is the last one that cargo says; the programs come before it.
    let text = String::from_utf8(output.stdout)?;
    let mut executables =
        text.lines().filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next());
    let program = executables.rfind(|path| path.contains(&format!("/deps/{test}-")));
    Ok(PathBuf::from(program.ok_or(format!("cargo names no program of tests/{test}"))?))
}

/// Runs a program in the root, beside the source tree and the toolchain of this machine.
fn inside(root: &Path, program: &Path, words: &[&str]) -> Result<bool> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let source = crate::root();
    let script = r#"
set -e
mount --make-rprivate /
for f in "$SOURCE" "$HOME/.cargo" "$HOME/.rustup"; do
    [ -e "$f" ] || continue
    mkdir -p "$ROOT$f"; mount --rbind "$f" "$ROOT$f"
done
for f in /sys /dev; do mount --rbind $f "$ROOT$f"; done
mount -t proc proc "$ROOT/proc"
mount -t tmpfs none "$ROOT/tmp"
cd "$ROOT$SOURCE"
exec chroot "$ROOT" sh -c 'cd "$0" && exec "$@"' "$SOURCE" "$@"
"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "newer"]);
    command.arg(program).args(words).stdin(Stdio::null());
    command.env("ROOT", root).env("SOURCE", &source).env("HOME", home).env("CARGO", &cargo);
    let toolchain = Path::new(&cargo).parent().unwrap_or(Path::new("/usr/bin")).display();
    command.env("PATH", format!("{toolchain}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    command.env("NVME_DRV_REQUIRE_VM", "1").env_remove("TMPDIR");
    Ok(command.status()?.success())
}
