//! Trusted dataspaces: what looks like one is none.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nvme_client::message::RegionWords;
use nvme_client::{Client, memfd};
use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};

use crate::bystander::{Bystander, MEMORY};
use crate::disk::memory_dir;
use crate::raw::options;
use crate::rig::{Rig, Setup, attack_on};

const LEN: u64 = 1 << 20;

fn file(path: &Path, len: u64) -> OwnedFd {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(len).unwrap();
    file.into()
}

fn open(path: &Path) -> OwnedFd {
    OpenOptions::new().read(true).write(true).open(path).unwrap().into()
}

/// A server that trusts `ram` and `other` in a directory; the bystander has the latter.
fn trusting(work: impl FnOnce(&Rig, &Path)) {
    let dir = memory_dir();
    let (ram, other) = (dir.path().join("ram"), dir.path().join("other"));
    file(&ram, LEN);
    let others = file(&other, MEMORY);
    let caps =
        [("ram", &ram), ("other", &other)].map(|(name, path)| format!("{name}=file:{}", path.display()));
    let arguments = ["--cap", &caps[0], "-d", "ram", "--cap", &caps[1], "--register-ds", "other"];
    let arguments = arguments.map(String::from).to_vec();
    attack_on(Setup { arguments, bystander: false, ..Setup::default() }, |rig| {
        let session = rig.create(&["device=partlabel:bystander"]);
        let bystander = Bystander::over(session, others, 512);
        bystander.goes_on();
        work(rig, dir.path());
        bystander.goes_on();
        bystander.stop();
    });
}

/// A client that has registered nothing.
fn client(rig: &Rig) -> Client {
    let options = nvme_client::Options { scratch: 0, queues: 0, ..options() };
    let session = rig.create(&["device=partlabel:attack", "ds-max=256"]);
    Client::negotiate(session, nvme_client::Memory::new(), &options).unwrap()
}

fn takes(client: &Client, file: &OwnedFd) -> bool {
    let words = RegionWords { guest: 0, size: LEN, user: 1 << 40, offset: 0 };
    let taken = client.front.add_mem_reg(words, file.as_fd()).is_ok();
    let table = client.front.set_mem_table_raw(1, &[words], &[file.as_fd()]).is_ok();
    assert_eq!(taken, table);
    if taken {
        client.front.rem_mem_reg(words).unwrap();
    }
    taken
}

#[test]
fn a_trusted_dataspace_is_known_by_any_descriptor_of_it() {
    trusting(|rig, dir| {
        let client = client(rig);
        let ram = dir.join("ram");
        assert!(takes(&client, &open(&ram)));
        assert!(takes(&client, &File::open(&ram).unwrap().into()), "read-only");
        let link = dir.join("link");
        fs::hard_link(&ram, &link).unwrap();
        assert!(takes(&client, &open(&link)), "another name of the same file");
        // The file is what is trusted, not its name.
        let held = open(&ram);
        fs::remove_file(&ram).unwrap();
        assert!(takes(&client, &held));
    });
}

#[test]
fn a_file_of_the_same_size_or_contents_or_name_is_not_trusted() {
    trusting(|rig, dir| {
        let client = client(rig);
        let ram = dir.join("ram");
        fs::write(&ram, vec![7; LEN as usize]).unwrap();
        let near = [
            file(&dir.join("same-size"), LEN),
            memfd(LEN, false).unwrap(),
            memfd(LEN, true).unwrap(),
            memfd_create("ram", MemfdFlags::CLOEXEC).unwrap(),
        ];
        near[3].as_fd().try_clone_to_owned().map(File::from).unwrap().set_len(LEN).unwrap();
        for file in &near {
            assert!(!takes(&client, file));
        }
        fs::copy(&ram, dir.join("copy")).unwrap();
        assert!(!takes(&client, &open(&dir.join("copy"))));
        // One with its name, after the original was moved away; then the original under a name of its own.
        fs::rename(&ram, dir.join("moved")).unwrap();
        assert!(!takes(&client, &file(&ram, LEN)));
        assert!(takes(&client, &open(&dir.join("moved"))));
        // Far beyond its end, where the proof is made, anybody may hold locks.
        let locked = open(&dir.join("copy"));
        fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(!takes(&client, &locked));
    });
}

#[test]
fn one_region_that_is_not_trusted_refuses_the_whole_table() {
    trusting(|rig, dir| {
        let client = client(rig);
        let (good, bad) = (open(&dir.join("ram")), memfd(LEN, false).unwrap());
        let words = |guest| RegionWords { guest, size: LEN, user: guest + (1 << 40), offset: 0 };
        let table = [words(0), words(LEN)];
        let files = [good.as_fd(), bad.as_fd()];
        assert!(client.front.set_mem_table_raw(2, &table, &files).is_err());
        // Nothing of it was registered: there is nothing to remove.
        assert!(client.front.rem_mem_reg(words(0)).is_err());
        client.front.set_mem_table_raw(1, &table[..1], &files[..1]).unwrap();
    });
}
