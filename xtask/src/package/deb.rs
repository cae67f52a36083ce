//! `cargo xtask deb`: a Debian package, made by `dpkg-deb` from what is built and what lies in packaging/ and systemd/.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::units::Result;

const PROGRAMS: [&str; 4] = ["nvme-drv", "nvme-ctl", "nvme-ned", "nvme-decode"];
/// What is put beside the programs' documentation, as it is.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "packaging/debian/copyright",
];

/// Makes the package of release programs, and says where it is.
pub(crate) fn deb(_: &[String]) -> Result<()> {
    let made = make(true)?;
    println!("{}", made.display());
    Ok(())
}

/// The package; of programs in release mode, or of this program's profile.
pub(super) fn make(release: bool) -> Result<PathBuf> {
    let programs = build(release)?;
    let folder = tempfile::tempdir()?;
    let stage = folder.path().join("nvme-drv");
    let put = |from: &Path, to: &str, mode: u32| -> Result<()> {
        let to = stage.join(to);
        fs::create_dir_all(to.parent().ok_or("no folder")?)?;
        fs::copy(from, &to).map_err(|why| format!("{}: {why}", from.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    };
    let source = crate::root();
    for name in PROGRAMS {
        put(&programs.join(name), &format!("usr/bin/{name}"), 0o755)?;
    }
    for entry in fs::read_dir(source.join("systemd"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).ok_or("a unit without a name")?;
        match name.strip_suffix(".sysusers") {
            Some(name) => put(&path, &format!("usr/lib/sysusers.d/{name}.conf"), 0o644)?,
            None => put(&path, &format!("usr/lib/systemd/system/{name}"), 0o644)?,
        }
    }
    for name in DOCUMENTS {
        let own = Path::new(name).file_name().and_then(|n| n.to_str()).unwrap_or(name);
        put(&source.join(name), &format!("usr/share/doc/nvme-drv/{own}"), 0o644)?;
    }
    for entry in fs::read_dir(source.join("doc"))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".md")) {
            put(&path, &format!("usr/share/doc/nvme-drv/doc/{name}"), 0o644)?;
        }
    }
    let packaging = source.join("packaging");
    put(&packaging.join("50-nvme-drv.json"), "usr/share/qemu/vhost-user/50-nvme-drv.json", 0o644)?;
    put(&packaging.join("debian/nvme-drv.conf"), "etc/nvme-drv/nvme-drv.conf", 0o644)?;
    for name in ["postinst", "prerm", "postrm"] {
        put(&packaging.join("debian").join(name), &format!("DEBIAN/{name}"), 0o755)?;
    }
    put(&packaging.join("debian/conffiles"), "DEBIAN/conffiles", 0o644)?;
    pages(&stage)?;

    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let version = env!("CARGO_PKG_VERSION");
    let mut size = 0;
    tidy(&stage, &mut size)?;
    let control = fs::read_to_string(packaging.join("debian/control"))?
        .replace("@VERSION@", version)
        .replace("@ARCH@", architecture.trim())
        .replace("@GLIBC@", &newest_glibc(&programs)?)
        .replace("@SIZE@", &(size / 1024).to_string());
    fs::write(stage.join("DEBIAN/control"), control)?;
    fs::set_permissions(stage.join("DEBIAN/control"), fs::Permissions::from_mode(0o644))?;

    let into = source.join("target/deb");
    fs::create_dir_all(&into)?;
    let made = into.join(format!(
        "nvme-drv_{version}_{}{}.deb",
        architecture.trim(),
        if release { "" } else { "_dev" }
    ));
    // Of the same commit the same package: times are the commit's.
    let time = output(Command::new("git").current_dir(&source).args(["log", "-1", "--format=%ct"]));
    let time = time.map_or_else(|_| "0".to_owned(), |text| text.trim().to_owned());
    let compression = if release { "-Zxz" } else { "-Zgzip" };
    let mut pack = Command::new("dpkg-deb");
    pack.env("SOURCE_DATE_EPOCH", time).args(["--root-owner-group", compression]);
    if !release {
        pack.arg("-z1");
    }
    output(pack.arg("--build").arg(&stage).arg(&made))?;
    Ok(made)
}

fn build(release: bool) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::root()).args(["build", "--quiet", "--locked", "--bins", "-p", "nvme-drv"]);
    if release {
        // Symbols stay, for the decoder and for backtraces; line numbers are large.
        command.arg("--release").env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    }
    if !command.status()?.success() {
        return Err("the build failed".into());
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("no folder of programs")?;
    Ok(if release { folder.with_file_name("release") } else { folder.to_path_buf() })
}

/// Manual pages and completions, the pages compressed.
fn pages(stage: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(crate::root())
        .args(["run", "--quiet", "--locked", "-p", "nvme-pages", "--"])
        .arg(stage);
    if !command.status()?.success() {
        return Err("the manual pages were not made".into());
    }
    let pages = stage.join("usr/share/man");
    for folder in ["man1", "man8"] {
        for entry in fs::read_dir(pages.join(folder))? {
            output(Command::new("gzip").arg("-9n").arg(entry?.path()))?;
        }
    }
    Ok(())
}

/// Gives folders and files that were made here the usual rights, and counts bytes.
fn tidy(folder: &Path, size: &mut u64) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, about) = (entry.path(), entry.metadata()?);
        if about.is_dir() {
            tidy(&path, size)?;
        } else {
            *size += about.len();
            let mode = if about.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// The newest version of the C library that a symbol of the programs asks for.
fn newest_glibc(programs: &Path) -> Result<String> {
    let mut newest = (2, 0);
    for name in PROGRAMS {
        let bytes = fs::read(programs.join(name))?;
        let mut rest = bytes.as_slice();
        let word = b"GLIBC_";
        while let Some(at) = rest.windows(word.len()).position(|window| window == word) {
            rest = rest.get(at + word.len()..).unwrap_or_default();
            let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(rest.len());
            let text = std::str::from_utf8(rest.get(..end).unwrap_or_default())?;
            if let Some((major, minor)) = text.split_once('.')
                && let (Ok(major), Ok(minor)) =
                    (major.parse(), minor.split('.').next().unwrap_or_default().parse())
            {
                newest = newest.max((major, minor));
            }
        }
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

fn output(command: &mut Command) -> Result<String> {
    let output =
        command.output().map_err(|why| format!("{}: {why}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let program = command.get_program().to_string_lossy().into_owned();
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
