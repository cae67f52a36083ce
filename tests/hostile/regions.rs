//! Tables of memory that lie.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::message::{RegionWords, request};
use nvme_client::{kind, memfd};

use crate::disk::{self, SECTORS};
use crate::raw::*;
use crate::rig::{WAIT, attack};

const PAGE: u64 = 4096;
/// Where there is room for more regions.
const FREE: u64 = 1 << 40;

fn words(guest: u64, size: u64, user: u64, offset: u64) -> RegionWords {
    RegionWords { guest, size, user, offset }
}

/// A region is refused, alone and within a whole table, and what is registered goes on being so.
fn refused(raw: &mut Raw, region: RegionWords) {
    let file = raw.client.memory.file(0).unwrap();
    assert!(raw.client.front.add_mem_reg(region, file).is_err(), "{region:x?}");
    let mut table: Vec<_> = raw.client.memory.regions.iter().map(|r| r.words).collect();
    table.push(region);
    let files: Vec<BorrowedFd<'_>> = vec![file; table.len()];
    assert!(raw.client.front.set_mem_table_raw(table.len() as u32, &table, &files).is_err(), "{region:x?}");
    raw.serves();
}

#[test]
fn overlapping_regions_are_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let [first, second, third] = [0, 1, 2].map(|i| raw.client.memory.regions[i].words);
        // In a whole table no region may be twice.
        let file = raw.client.memory.file(0).unwrap();
        for twice in [first, second, third] {
            let table = [first, second, third, twice];
            assert!(raw.client.front.set_mem_table_raw(4, &table, &[file; 4]).is_err());
        }
        // Another part of the file in a region's place, and another file.
        let other = memfd(4 << 20, false).unwrap();
        assert!(raw.client.front.add_mem_reg(first, other.as_fd()).is_err());
        for region in [
            words(third.guest, third.size, third.user, third.offset - PAGE),
            words(third.guest, third.size - PAGE, third.user, third.offset),
            words(third.guest, third.size, third.user + PAGE, third.offset),
            words(third.guest + PAGE, third.size, third.user, third.offset),
            // In the guest's addresses: over the start, the end, inside, around.
            words(RAM - PAGE, 2 * PAGE, FREE, 0),
            words(THIRD + THIRD_LEN - PAGE, 2 * PAGE, FREE, 0),
            words(RAM + PAGE, PAGE, FREE, 0),
            words(RAM - PAGE, RAM_LEN, FREE, 0),
            words(SECOND - 1, PAGE, FREE, 0),
            // In the client's.
            words(FREE, PAGE, first.user, 0),
            words(FREE, 2 * PAGE, first.user - PAGE, 0),
            words(FREE, PAGE, third.user + third.size - 1, 0),
        ] {
            refused(&mut raw, region);
        }
        raw.guards_hold();
    });
}

#[test]
fn a_region_that_is_registered_already_is_the_same() {
    attack(|rig| {
        let session = rig.create(&["device=partlabel:attack", "ds-max=1"]);
        let mut raw = Raw::with(session, &options());
        let before = (rig.descriptors(), rig.anonymous());
        for _ in 0..200 {
            for i in 0..3 {
                let file = raw.client.memory.file(0).unwrap();
                raw.client.front.add_mem_reg(raw.client.memory.regions[i].words, file).unwrap();
            }
        }
        let now = (rig.descriptors_at_most(before.0), rig.anonymous());
        assert!(now.0 <= before.0 && now.1 <= before.1 + (256 << 10), "{before:?} became {now:?}");
        raw.serves();
        // However often it was added, it goes at once.
        let third = raw.client.memory.regions[2].words;
        assert_eq!(raw.ask(kind::IN, 1, &[(THIRD, 512, WRITE)]), (OK, 513));
        raw.client.front.rem_mem_reg(third).unwrap();
        raw.refused(kind::IN, 1, &[(THIRD, 512, WRITE)], IOERR);
        assert!(raw.client.front.rem_mem_reg(third).is_err());
        raw.guards_hold();
    });
}

#[test]
fn empty_huge_and_wrapping_regions_are_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let top = 0u64.wrapping_sub(PAGE);
        for region in [
            words(FREE, 0, FREE, 0),
            words(FREE, u64::MAX, FREE, 0),
            words(FREE, top, FREE, 0),
            words(FREE, 1 << 63, FREE, 0),
            words(FREE, 1 << 40, FREE, 0),
            // Beyond the end of the file, by much and by a page.
            words(FREE, 64 << 20, FREE, 0),
            words(FREE, PAGE, FREE, 1 << 40),
            words(FREE, 2 * PAGE, FREE, (1 << 20) + (6 << 16) - PAGE),
            // Ends that wrap.
            words(top, PAGE, FREE, 0),
            words(top, 2 * PAGE, FREE, 0),
            words(FREE, PAGE, top, 0),
            words(FREE, PAGE, FREE, top),
            words(FREE, PAGE, FREE, u64::MAX - 1),
        ] {
            refused(&mut raw, region);
        }
        raw.guards_hold();
    });
}

#[test]
fn a_region_count_that_lies_is_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let file = memfd(1 << 20, false).unwrap();
        let table: Vec<_> = (0..8).map(|i| words(FREE + i * PAGE, PAGE, FREE + i * PAGE, i * PAGE)).collect();
        let fds = vec![file.as_fd(); 64];
        for (count, regions, files) in [
            (0, 1, 1),
            (1, 0, 0),
            (1, 2, 2),
            (2, 1, 1),
            (8, 7, 8),
            (8, 8, 7),
            (7, 8, 8),
            (8, 8, 0),
            (8, 8, 9),
            (0, 0, 1),
            (65, 8, 8),
            (0x800_0001, 1, 1),
            (u32::MAX, 8, 8),
            (u32::MAX, 0, 0),
        ] {
            let result = raw.client.front.set_mem_table_raw(count, &table[..regions], &fds[..files]);
            assert!(result.is_err(), "{count} {regions} {files}");
            raw.serves();
        }
    });
}

#[test]
fn region_513_is_refused_and_the_others_are_served() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let front = &raw.client.front;
        assert_eq!(front.max_mem_slots().unwrap(), 512);
        let file = memfd(600 * PAGE, false).unwrap();
        // Every other page: none adjoins another.
        let region = |i: u64| words(FREE + 2 * i * PAGE, PAGE, FREE + 2 * i * PAGE, i * PAGE);
        for i in 0..509 {
            front.add_mem_reg(region(i), file.as_fd()).unwrap();
        }
        for i in 509..512 {
            assert!(front.add_mem_reg(region(i), file.as_fd()).is_err());
        }
        assert_eq!(raw.ask(kind::IN, 1, &[(region(508).guest, 512, WRITE)]), (OK, 513));
        assert_eq!(raw.ask(kind::IN, 1, &[(region(509).guest, 512, WRITE)]), (IOERR, 1));
        let front = &raw.client.front;
        front.rem_mem_reg(region(7)).unwrap();
        front.add_mem_reg(region(509), file.as_fd()).unwrap();
        assert!(front.add_mem_reg(region(510), file.as_fd()).is_err());
        assert_eq!(raw.ask(kind::IN, 1, &[(region(509).guest, 512, WRITE)]), (OK, 513));
        assert_eq!(raw.ask(kind::IN, 1, &[(region(7).guest, 512, WRITE)]), (IOERR, 1));
        let bytes = crate::rig::file_bytes(&file);
        let start = disk::start("attack") + 512;
        let written = [508, 509].map(|i| i * PAGE as usize);
        for at in written {
            assert_eq!(bytes[at..at + 512], disk::pattern(start, 512));
        }
        let elsewhere = bytes.chunks(512).enumerate().filter(|(i, _)| !written.contains(&(i * 512)));
        assert!(elsewhere.into_iter().all(|(_, b)| b.iter().all(|b| *b == 0)));
        raw.guards_hold();
    });
}

#[test]
fn a_file_more_than_ds_max_is_refused() {
    attack(|rig| {
        for (word, most) in [("ds-max=1", 1), ("ds-max=2", 2), ("ds-max=7", 7)] {
            let session = rig.create(&["device=partlabel:attack", word]);
            let mut raw = Raw::with(session, &options());
            let files: Vec<OwnedFd> = (0..most + 1).map(|_| memfd(4 * PAGE, false).unwrap()).collect();
            let region = |i: u64| words(FREE + i * PAGE, PAGE, FREE + i * PAGE, 0);
            let front = &raw.client.front;
            for (i, file) in (1..most).zip(&files) {
                front.add_mem_reg(region(i), file.as_fd()).unwrap();
            }
            let surplus = &files[most as usize];
            assert!(front.add_mem_reg(region(100), surplus.as_fd()).is_err());
            // Another region of a file that is known, by another descriptor, is no file more.
            let again = raw.client.memory.file(0).unwrap().try_clone_to_owned().unwrap();
            front.add_mem_reg(words(FREE + 200 * PAGE, PAGE, FREE + 200 * PAGE, 0), again.as_fd()).unwrap();
            if most > 1 {
                front.rem_mem_reg(region(1)).unwrap();
                front.add_mem_reg(region(100), surplus.as_fd()).unwrap();
            }
            assert!(front.add_mem_reg(region(101), files[0].as_fd()).is_err());
            raw.serves();
        }
    });
}

#[test]
fn regions_that_come_and_go_cost_nothing_in_the_end() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let file = memfd(64 * PAGE, false).unwrap();
        let region = |i: u64| words(FREE + i * PAGE, PAGE, FREE + i * PAGE, (i % 64) * PAGE);
        let mut before = (0, 0);
        for round in 0..400 {
            if round == 100 {
                before = (rig.descriptors(), rig.anonymous());
            }
            let front = &raw.client.front;
            front.add_mem_reg(region(round), file.as_fd()).unwrap();
            assert!(front.add_mem_reg(region(round), raw.client.memory.file(0).unwrap()).is_err());
            if round % 8 == 0 {
                assert_eq!(raw.ask(kind::IN, 0, &[(region(round).guest, 512, WRITE)]), (OK, 513));
            }
            let front = &raw.client.front;
            front.rem_mem_reg(region(round)).unwrap();
            assert!(front.rem_mem_reg(region(round)).is_err());
        }
        let now = (rig.descriptors_at_most(before.0), rig.anonymous());
        assert!(now.0 <= before.0 && now.1 <= before.1 + (256 << 10), "{before:?} became {now:?}");
        raw.refused(kind::IN, 0, &[(region(399).guest, 512, WRITE)], IOERR);
        raw.guards_hold();
    });
}

#[test]
fn a_region_that_is_removed_is_not_written_after_the_acknowledgement() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let whole = raw.client.memory.regions.iter().map(|r| r.words).collect::<Vec<_>>();
        let third = whole[2];
        for round in 0..60 {
            // Five chains, each of which fills the region.
            raw.restart();
            raw.header(kind::IN, 0);
            for chain in 0..5 {
                let at = chain * 3;
                raw.set_desc(at, desc(raw.head, 16, NEXT, at + 1));
                raw.set_desc(at + 1, desc(THIRD, THIRD_LEN as u32, NEXT | WRITE, at + 2));
                raw.set_desc(at + 2, desc(raw.status_at(), 1, WRITE, 0));
            }
            raw.offer(&[0, 3, 6, 9, 12]);
            let file = raw.client.memory.file(0).unwrap();
            if round % 2 == 0 {
                raw.client.front.rem_mem_reg(third).unwrap();
            } else {
                raw.client.front.set_mem_table_raw(2, &whole[..2], &[file; 2]).unwrap();
            }
            let mark = vec![round as u8 | 0x80; THIRD_LEN as usize];
            raw.put(THIRD, &mark);
            for _ in 0..5 {
                raw.answer();
            }
            assert!(raw.get(THIRD, mark.len()) == mark, "written after it was removed");
            raw.client.front.add_mem_reg(third, raw.client.memory.file(0).unwrap()).unwrap();
        }
        raw.serves();
        raw.guards_hold();
    });
}

#[test]
fn rings_whose_region_is_removed_break() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let first = raw.client.memory.regions[0].words;
        let err = raw.client.queues[0].err.as_fd();
        raw.client.front.rem_mem_reg(first).unwrap();
        let deadline = Instant::now() + WAIT;
        while nvme_client::socket::drain(err).unwrap() == 0 {
            assert!(Instant::now() < deadline, "the client was not told");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It cannot be started without them, and can with them.
        raw.client.stop_queue(0).unwrap();
        let kick = raw.client.queues[0].kick.as_fd();
        assert!(raw.client.front.vring_fd(request::SET_VRING_KICK, 0, Some(kick)).is_err());
        raw.client.front.add_mem_reg(first, raw.client.memory.file(0).unwrap()).unwrap();
        raw.restart();
        raw.serves();
        assert_eq!(raw.ask(kind::IN, SECTORS - 1, &[(THIRD, 512, WRITE)]), (OK, 513));
        raw.guards_hold();
    });
}
