//! What comes over a vhost-user connection. The home's property tests drive the same function.

use std::os::fd::OwnedFd;

use nvme_linux::vhost::wire::{HEADER, PAYLOAD_MAX};
use nvme_linux::vhost::{Call, Incoming, Machine, Reply};

/// Feeds `data` to a machine, in cuts, with descriptors and with answers that `data` itself picks. Panics when the machine
/// holds more than one message or one answer, asks for more than it can hold, or asks for nothing without a reason.
pub fn vhost(data: &[u8]) {
    let mut machine = Machine::new(0x7fff_ffff_0fff_ffff & !(1 << 26));
    let mut rest = data;
    let mut held = None;
    while let Some((&steer, after)) = rest.split_first() {
        rest = after;
        let wanted = machine.wanted();
        assert!(wanted <= PAYLOAD_MAX.max(HEADER), "it wants {wanted} bytes");
        let cut = if steer & 1 == 0 { wanted } else { usize::from(steer >> 4) };
        let (bytes, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        let files: Vec<OwnedFd> = (0..(steer >> 1) & 3)
            .filter_map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok())
            .collect();
        if machine.feed(bytes, files).is_err() {
            assert_eq!(machine.wanted(), 0);
            assert!(machine.next().is_err());
            return;
        }
        match machine.next() {
            Ok(Some(Incoming::Request(request))) => {
                assert_eq!(machine.wanted(), 0, "one request at a time");
                let reply = match (&request.call, steer & 8) {
                    (_, 0) => Reply::Failed,
                    (Call::GetRingBase { ring }, _) => Reply::RingBase(*ring),
                    (Call::GetConfig { len, .. }, _) => Reply::Config(vec![steer; *len as usize]),
                    _ => Reply::Done,
                };
                assert!(machine.reply(request.token, reply.clone()).is_ok());
                assert!(machine.reply(request.token, reply).is_err(), "answered twice");
                // Held for a while, as a server would.
                held = Some(request.call);
            }
            Ok(_) => {}
            Err(_) => return,
        }
        let out = machine.outgoing().len();
        assert!(out <= HEADER + PAYLOAD_MAX);
        if out > 0 {
            assert_eq!(machine.wanted(), 0, "answers go out first");
            machine.sent(usize::from(steer));
            machine.sent(out);
        }
    }
    drop(held);
}
