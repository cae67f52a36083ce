//! `doc/own-drive.md`, step by step: every `sh` block of the page, in its order, in the machine, as a reader would type it.

use super::bed::Bed;

const PAGE: &str = include_str!("../../../doc/own-drive.md");
/// What the golden image says when it boots.
const BOOTED: &str = "this machine booted from the golden partition";
/// Bytes of the golden image.
const IMAGE: usize = 4 << 20;

/// One block of commands, and what they must print.
struct Step {
    /// The line of the page that it begins at.
    line: usize,
    commands: String,
    says: Option<String>,
}

/// The steps of the page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        match steps.last_mut() {
            Some(step) if open && line != "```" => step.commands += &format!("{line}\n"),
            _ if line == "```sh" => {
                steps.push(Step { line: number + 1, commands: String::new(), says: None });
                open = true;
            }
            Some(step) if line.starts_with("<!-- says: ") => {
                step.says =
                    line.strip_prefix("<!-- says: ").and_then(|l| l.strip_suffix(" -->")).map(Into::into);
            }
            _ => open = false,
        }
    }
    steps
}

/// A disk image whose boot sector says so on the first serial port, and restarts the machine.
fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..IMAGE).map(|at| (at / 512 + at % 251) as u8).collect();
    // xor ax, ax; mov ds, ax; mov si, text; mov dx, COM1; each: lodsb; test al, al; jz end; out dx, al; jmp each;
    // end: mov al, 0xfe; out 0x64, al (the keyboard controller's reset line); stop: hlt; jmp stop
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x19, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb,
        0xf8, 0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd,
    ];
    let sector = [&code[..], BOOTED.as_bytes(), b"\r\n\0"].concat();
    image[..sector.len()].copy_from_slice(&sector);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

/// The files that the machine must have for this: one for each step, the image, and those of the source tree that the page names.
pub(super) fn files() -> Vec<(String, Vec<u8>)> {
    let steps =
        steps(PAGE).into_iter().map(|step| (format!("page/{}", step.line), step.commands.into_bytes()));
    let user = include_bytes!("../../../systemd/nvme-drv.sysusers").to_vec();
    let more = [
        ("src/golden.img".into(), image()),
        ("src/systemd/nvme-drv.sysusers".into(), user),
        // What a shell has of itself between two steps.
        ("page/environment".into(), b"HOME=/; PATH=/opt/bin:/usr/sbin:/usr/bin:/bin\n".to_vec()),
    ];
    steps.chain(more).collect()
}

impl Bed {
    /// Runs the page. The drive is at the address that the page has for an example.
    pub(super) fn page(&mut self) {
        self.guest.run("cp /page/environment /tmp/environment");
        for step in steps(PAGE) {
            let first = step.commands.lines().next().unwrap_or_default();
            let what = format!("doc/own-drive.md:{}, {first}", step.line);
            // Variables are kept for the next step; what is started in the background lives on.
            let script = format!(
                "set -ma; cd /src; . /tmp/environment; set -e; . /page/{}; export -p >/tmp/environment",
                step.line
            );
            let command = format!("bash -c '{script}' </dev/null");
            if !self.check(&what, &command, 0, step.says.as_deref().unwrap_or_default()) {
                // The next ones would wait for what is not there.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_steps_and_what_they_say() {
        let steps = steps(PAGE);
        assert!(steps.len() > 10);
        assert!(steps.iter().all(|step| !step.commands.is_empty()));
        assert!(
            steps.iter().any(|step| step.commands.starts_with("nvme-ctl bind")
                || step.commands.contains("\nnvme-ctl bind"))
        );
        assert!(
            steps
                .iter()
                .filter(|step| step.says.as_deref().is_some_and(|text| BOOTED.contains(text)))
                .count()
                == 2
        );
        // What is marked otherwise is not run.
        assert!(steps.iter().all(|step| !step.commands.contains("crosvm")));
    }

    /// A kernel's view of one drive, with namespaces under names that are not their numbers.
    fn drive(names: &[(&str, u32)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (name, nsid) in names {
            let controller = name["nvme".len()..].split(['c', 'n']).next().unwrap();
            let folder =
                sys.path().join(format!("bus/pci/devices/0000:01:00.0/nvme/nvme{controller}/{name}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("nsid"), format!("{nsid}\n")).unwrap();
        }
        sys
    }

    /// What `command` prints with `sys` in place of `/sys`.
    fn printed(command: &str, sys: &std::path::Path) -> String {
        let command = command.replace("/sys/", &format!("{}/", sys.display()));
        let output = std::process::Command::new("sh").args(["-ec", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_disk_is_found_by_its_namespaces_number_and_never_by_its_name() {
        let look_ups: Vec<&str> = PAGE
            .lines()
            .filter_map(|line| line.strip_prefix("until ").or(Some(line)).filter(|l| l.starts_with("DISK=")))
            .collect();
        // Found, before it is erased, and after the kernel has it back.
        assert_eq!(look_ups.len(), 3);
        assert!(!PAGE.contains("n1)"), "a disk by the number in its name");
        for (names, wanted) in [
            (&[("nvme0n1", 3), ("nvme0n2", 1), ("nvme0n3", 2), ("nvme0n4", 11)][..], "/dev/nvme0n2"),
            // Paths of multipath disks.
            (&[("nvme2c2n1", 4), ("nvme2c2n5", 1)], "/dev/nvme2n5"),
            (&[("nvme0n1", 2)], ""),
        ] {
            let sys = drive(names);
            for line in &look_ups {
                let line = line.trim_end_matches(" \\");
                let script = format!("DRIVE=0000:01:00.0; NSID=1; {line}; echo $DISK");
                assert_eq!(printed(&script, sys.path()), wanted, "{line}");
            }
            let command = crate::vm::disk_of("0000:01:00.0", 1);
            assert_eq!(printed(&command, sys.path()), wanted);
        }
    }

    #[test]
    fn the_image_ends_its_text_and_is_bootable() {
        let image = image();
        assert_eq!((image.len(), &image[510..512]), (IMAGE, &[0x55, 0xaa][..]));
        assert_eq!(image[0x19..].iter().position(|byte| *byte == 0), Some(BOOTED.len() + 2));
    }
}
