//! vhost-user as no honest front-end speaks it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nvme_client::message::{VRING_NO_FD, flag, header, protocol, request};
use nvme_client::{Addresses, Client, FrontEnd, Memory, Options, feature, kind, memfd, socket};

use crate::raw::*;
use crate::rig::{Rig, WAIT, attack};

/// Bytes of configuration space that vhost-user can name.
const CONFIG_SPACE: u32 = 4096;

/// A connection on which nothing was said.
pub(crate) fn untouched(rig: &Rig) -> FrontEnd {
    FrontEnd::from_fd(rig.create(&["device=partlabel:attack"]), WAIT)
}

/// The connection is closed by the server.
pub(crate) fn closed(front: &FrontEnd) {
    socket::wait_closed(&front.socket(), WAIT).unwrap();
}

#[test]
fn configuration_is_read_at_every_offset_and_length_and_nothing_else_is() {
    attack(|rig| {
        let raw = Raw::new(rig);
        let front = &raw.client.front;
        let mut space = front.config(0, CONFIG_SPACE).unwrap();
        assert!(space[60..].iter().all(|b| *b == 0), "there is nothing behind the configuration");
        space.truncate(CONFIG_SPACE as usize);
        let far = [255, 256, 4090, 4095, 4096, 4097, u32::MAX - 7, u32::MAX];
        for offset in (0..68).chain(far) {
            for len in (1..68).chain([188, 196, 256, 257, 4036, 4096]) {
                let end = u64::from(offset) + u64::from(len);
                let there = (end <= CONFIG_SPACE.into()).then(|| &space[offset as usize..end as usize]);
                assert_eq!(front.config(offset, len).ok().as_deref(), there, "{offset} {len}");
            }
        }
        for offset in [0, 60, 256, u32::MAX] {
            assert!(front.config(offset, 0).is_ok_and(|b| b.is_empty()), "{offset}");
        }
        // A length that is not the payload's.
        for len in [0, 59, 61, 0x1000, u32::MAX] {
            let words = [0, len, 0].map(u32::to_ne_bytes).concat();
            let reply = front.ask(request::GET_CONFIG, &[words, vec![0; 60]].concat(), &[]).unwrap();
            assert!(reply.payload.len() <= 12, "{len}");
        }
        assert_eq!(front.config(0, CONFIG_SPACE).unwrap(), space);
    });
}

#[test]
fn configuration_is_written_at_one_place_only() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let space = raw.client.front.config(0, CONFIG_SPACE).unwrap();
        for offset in (0..300).chain([u32::MAX]) {
            for value in [0u8, 1, 2, 0xff] {
                let taken = raw.client.front.set_config(offset, &[value]).is_ok();
                assert_eq!(taken, offset == 32 && value <= 1, "{offset} {value}");
            }
            assert!(raw.client.front.set_config(offset, &[1, 0]).is_err(), "{offset}");
        }
        raw.client.front.set_config(32, &space[32..33]).unwrap();
        assert_eq!(raw.client.front.config(0, CONFIG_SPACE).unwrap(), space);
        raw.serves();
    });
}

#[test]
fn ring_indices_sizes_and_bases_out_of_range_are_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let front = &raw.client.front;
        for index in [256, 257, 0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
            assert!(front.set_vring_num(index, 16).is_err());
            assert!(front.set_vring_base(index, 0).is_err());
            assert!(front.set_vring_enable(index, true).is_err());
            assert!(front.set_vring_addr(index, Addresses::default()).is_err());
        }
        for size in [0, 3, 15, 17, 1023, 1025, 2048, 0x8000, 0x1_0000, 0x1_0010, u32::MAX] {
            assert!(front.set_vring_num(1, size).is_err(), "{size}");
        }
        for base in [0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
            assert!(front.set_vring_base(1, base).is_err(), "{base}");
        }
        for on in [2, 0x100, u32::MAX] {
            assert!(front.vring_state(request::SET_VRING_ENABLE, 1, on).is_err());
        }
        for word in [VRING_NO_FD << 1, 1 << 32, u64::MAX, 1 << 63 | VRING_NO_FD] {
            for kind in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
                assert!(front.command(kind, &word.to_ne_bytes(), &[]).is_err(), "{word:#x}");
            }
        }
        // A ring that runs is not changed.
        assert!(front.set_vring_num(0, 32).is_err());
        assert!(front.set_vring_base(0, 7).is_err());
        assert!(front.set_vring_addr(0, Addresses::default()).is_err());
        raw.serves();
        // This one has no way to say no.
        assert!(raw.client.front.get_vring_base(256).is_err());
        closed(&raw.client.front);
    });
}

#[test]
fn rings_outside_the_memory_or_misaligned_are_refused() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        raw.add_rom();
        raw.client.stop_queue(0).unwrap();
        let queue = &raw.client.queues[0];
        let user = |guest| raw.client.memory.user(guest).unwrap();
        let good = Addresses {
            desc: user(queue.ring.desc),
            avail: user(queue.ring.avail),
            used: user(queue.ring.used),
            ..Addresses::default()
        };
        let start = |at: Addresses| {
            let front = &raw.client.front;
            front.set_vring_addr(0, at)?;
            front.vring_fd(request::SET_VRING_KICK, 0, Some(queue.kick.as_fd()))
        };
        let second = user(SECOND);
        for (d, a, u) in [(1, 0, 0), (8, 0, 0), (0, 1, 0), (0, 0, 2)] {
            let at = Addresses { desc: good.desc + d, avail: good.avail + a, used: good.used + u, ..good };
            assert!(start(at).is_err());
        }
        // Nowhere; over the end of a region; guest addresses; what may not be written.
        let ends = second + SECOND_LEN - 64;
        for at in [0, 16, ends, second + SECOND_LEN, RAM, !15_u64, 1 << 63] {
            for (desc, avail, used) in [
                (at, good.avail, good.used),
                (good.desc, at + 64 * u64::from(at == ends) - 32 * u64::from(at == ends), good.used),
                (good.desc, good.avail, at),
            ] {
                assert!(start(Addresses { desc, avail, used, ..good }).is_err(), "{at:#x}");
            }
        }
        assert!(start(Addresses { used: 1 << 46, ..good }).is_err(), "a used ring in read-only memory");
        assert!(start(Addresses { flags: 1, ..good }).is_err(), "dirty logging");
        raw.restart();
        raw.serves();
        raw.guards_hold();
    });
}

#[test]
fn messages_of_features_that_were_not_negotiated_are_refused() {
    attack(|rig| {
        let all = options();
        let options = Options { protocol: protocol::REPLY_ACK, queues: 0, ..all };
        let client = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options).unwrap();
        let front = &client.front;
        let memory = Memory::flat(1 << 40, 4096).unwrap();
        assert!(front.add_mem_reg(memory.regions[0].words, memory.file(0).unwrap()).is_err());
        assert!(front.rem_mem_reg(client.memory.regions[0].words).is_err());
        assert!(front.set_config(32, &[1]).is_err());
        assert!(front.reset_device().is_err());
        assert!(front.back_end_channel().is_err());
        // What is never offered: logs, in-flight buffers, status, live migration, and numbers that mean nothing.
        for kind in [
            0,
            4,
            6,
            7,
            19,
            20,
            22,
            23,
            26,
            27,
            28,
            29,
            30,
            31,
            32,
            33,
            35,
            39,
            40,
            41,
            42,
            43,
            44,
            99,
            u32::MAX,
        ] {
            assert!(front.command(kind, &[0; 8], &[]).is_err(), "{kind}");
        }
        for features in [protocol::STATUS, protocol::LOG_SHMFD, 1 << 14, 1 << 63] {
            let words = (features | protocol::REPLY_ACK).to_ne_bytes();
            assert!(front.command(request::SET_PROTOCOL_FEATURES, &words, &[]).is_err());
        }
        assert!(front.queue_num().is_err());
        closed(front);
    });
}

#[test]
fn rings_cannot_be_enabled_where_protocol_features_were_not_acknowledged() {
    attack(|rig| {
        let front = untouched(rig);
        let features = front.features().unwrap() & !feature::PROTOCOL_FEATURES;
        front.set_owner().unwrap();
        front.set_features(features).unwrap();
        front.set_vring_enable(0, true).unwrap();
        closed(&front);
    });
}

#[test]
fn messages_with_bad_headers_or_lengths_end_their_connection_only() {
    attack(|rig| {
        let bad_headers = [
            header(request::GET_FEATURES, 0, 0),
            header(request::GET_FEATURES, 2, 0),
            header(request::GET_FEATURES, flag::VERSION | flag::REPLY, 0),
            header(request::GET_FEATURES, flag::VERSION | 0x10, 0),
            header(request::GET_FEATURES, u32::MAX, 0),
            header(request::GET_FEATURES, flag::VERSION, u32::MAX),
            header(request::SET_MEM_TABLE, flag::VERSION, 0x1_0000),
            [0xff; 12],
            [0; 12],
        ];
        for bytes in bad_headers {
            let front = untouched(rig);
            front.send_raw(&bytes, &[]).unwrap();
            closed(&front);
        }
        // Payloads that are too short, too long, or where none belongs; no acknowledgement was asked for, so nobody can
        // be told.
        for kind in (1..=18).chain([21, 24, 25, 34, 36, 37, 38]) {
            for len in [1, 7, 9, 15, 39, 41, 100] {
                let front = untouched(rig);
                front.send(kind, flag::VERSION, &vec![0xff; len], &[]).unwrap();
                closed(&front);
            }
        }
    });
}

/// Descriptors of several kinds that are no eventfds.
fn odd_descriptors() -> Vec<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (a, b) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let zero = std::fs::OpenOptions::new().write(true).open("/dev/zero").unwrap();
    let dir = std::fs::File::open("/").unwrap();
    let mem = memfd(4096, false).unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    vec![reader, writer, a.into(), b.into(), null.into(), zero.into(), dir.into(), mem, epoll]
}

#[test]
fn wrong_and_surplus_descriptors_are_refused_and_closed() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let open = rig.descriptors();
        let odd = odd_descriptors();
        let event = socket::event().unwrap();
        for round in 0..3 {
            let front = &raw.client.front;
            for fd in &odd {
                for kind in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
                    assert!(front.vring_fd(kind, 7, Some(fd.as_fd())).is_err(), "{kind} {fd:?}");
                }
            }
            for n in [2, 3, 64] {
                let many: Vec<BorrowedFd<'_>> = vec![event.as_fd(); n];
                assert!(front.command(request::SET_VRING_CALL, &7u64.to_ne_bytes(), &many).is_err(), "{n}");
                assert!(front.mem_reg(request::ADD_MEM_REG, Default::default(), &many).is_err());
                assert!(front.mem_reg(request::REM_MEM_REG, Default::default(), &many).is_err());
                assert!(front.set_mem_table_raw(1, &[Default::default()], &many).is_err());
                let words = raw.client.features.to_ne_bytes();
                assert!(front.command(request::SET_FEATURES, &words, &many).is_err());
                assert!(front.command(request::SET_OWNER, &[], &many).is_err());
            }
            // None where one belongs, one where none belongs.
            assert!(front.command(request::SET_VRING_CALL, &7u64.to_ne_bytes(), &[]).is_err());
            assert!(front.mem_reg(request::ADD_MEM_REG, raw.client.memory.regions[0].words, &[]).is_err());
            let no_fd = (7 | VRING_NO_FD).to_ne_bytes();
            assert!(front.command(request::SET_VRING_CALL, &no_fd, &[event.as_fd()]).is_err());
            // A ring is not polled for ever.
            assert!(front.vring_fd(request::SET_VRING_KICK, 7, None).is_err(), "{round}");
        }
        // Files of others are closed by a thread of their own.
        let deadline = Instant::now() + WAIT;
        while rig.descriptors() > open {
            assert!(Instant::now() < deadline, "{} descriptors, {open} before", rig.descriptors());
            std::thread::sleep(Duration::from_millis(5));
        }
        // Nothing was written into any of them.
        for fd in &odd[..1] {
            let ready = socket::wait_for(fd.as_fd(), rustix::event::PollFlags::IN, Instant::now()).unwrap();
            assert!(!ready, "something was written into a pipe");
        }
        raw.serves();
        // More than any message may carry end the connection.
        let many: Vec<BorrowedFd<'_>> = vec![event.as_fd(); 200];
        raw.client.front.send(request::SET_OWNER, flag::VERSION, &[], &many).unwrap();
        closed(&raw.client.front);
    });
}

#[test]
fn a_stalled_half_message_is_ended_and_holds_nobody_up() {
    attack(|rig| {
        let listener = UnixListener::bind(rig.path("listen")).unwrap();
        let _held = rig.mint(&["device=partlabel:attack"], Some(&listener));
        let start = Instant::now();
        let stalled = UnixStream::connect(rig.path("listen")).unwrap();
        let front = FrontEnd::from_fd(stalled.into(), WAIT);
        front.send_raw(&header(request::SET_FEATURES, flag::VERSION, 8)[..7], &[]).unwrap();
        // Another has sent all but the last byte of a table, with its file.
        let other = FrontEnd::from_fd(rig.create(&["device=partlabel:after", "read-only"]), WAIT);
        let file = memfd(4096, false).unwrap();
        let mut table = header(request::SET_MEM_TABLE, flag::VERSION, 40).to_vec();
        table.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        table.extend([0; 31]);
        other.send_raw(&table, &[file.as_fd()]).unwrap();
        for _ in 0..20 {
            rig.goes_on();
            let session = rig.create(&["device=partlabel:before", "read-only"]);
            let front = FrontEnd::from_fd(session, WAIT);
            assert_ne!(front.features().unwrap(), 0);
        }
        assert!(start.elapsed() < Duration::from_secs(8), "others were held up");
        closed(&front);
        closed(&other);
        // The next client of the socket gets its turn.
        let mut client = Client::connect(rig.path("listen"), &options()).unwrap();
        client.read(0, &mut [0; 512]).unwrap();
    });
}

#[test]
fn a_session_that_starts_on_a_connection_finds_nothing_of_the_one_before() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let regions: Vec<_> = raw.client.memory.regions.iter().map(|r| r.words).collect();
        for round in 0..30 {
            // Five chains are in flight, each of which fills the third region; as QEMU's hot-unplug leaves it, no region is
            // removed.
            raw.header(kind::IN, 0);
            for chain in 0..5 {
                let at = chain * 3;
                raw.set_desc(at, desc(raw.head, 16, NEXT, at + 1));
                raw.set_desc(at + 1, desc(THIRD, THIRD_LEN as u32, NEXT | WRITE, at + 2));
                raw.set_desc(at + 2, desc(raw.status_at(), 1, WRITE, 0));
            }
            raw.offer(&[0, 3, 6, 9, 12]);
            if round % 2 == 0 {
                // As QEMU does, which negotiates again before it.
                let protocol = raw.client.protocol;
                raw.client.front.set_protocol_features(protocol).unwrap();
            }
            raw.client.front.set_owner().unwrap();
            let mark = vec![round as u8 | 0x80; THIRD_LEN as usize];
            raw.put(THIRD, &mark);
            let used = raw.ring().used_index().unwrap();
            if round % 2 == 1 {
                // Nothing that it negotiated is left: what is not acknowledged any more has to be negotiated first.
                raw.client.front.acknowledge = false;
                let protocol = raw.client.protocol;
                raw.client.front.set_protocol_features(protocol).unwrap();
            }
            let front = &raw.client.front;
            // No ring runs, none can be started, and nothing is registered.
            let kick = raw.client.queues[0].kick.as_fd();
            raw.client.queues[0].kick().unwrap();
            assert!(front.rem_mem_reg(regions[0]).is_err());
            front.set_features(raw.client.features).unwrap();
            let queue = &raw.client.queues[0];
            assert!(raw.client.start_queue(queue).is_err(), "a ring was started in memory of the one before");
            assert!(front.vring_fd(request::SET_VRING_KICK, 0, Some(kick)).is_err());
            assert!(raw.get(THIRD, mark.len()) == mark, "written after the session's end");
            assert_eq!(raw.ring().used_index().unwrap(), used, "answered after the session's end");
            for region in &regions {
                front.add_mem_reg(*region, raw.client.memory.file(0).unwrap()).unwrap();
            }
            raw.restart();
            raw.serves();
        }
        rig.says("another session starts on its connection");
        raw.guards_hold();
    });
}
