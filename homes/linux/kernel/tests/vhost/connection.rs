//! The machine on a real socket.

use std::os::fd::{AsFd, OwnedFd};

use crate::support::*;
use nvme_linux::socket::{self, Kind};
use nvme_linux::vhost::wire::{FrontendReq as R, config_changed};
use nvme_linux::vhost::{Call, Connection, ConnectionError, Incoming, ProtocolError, QUEUES, Reply, Stage};

fn connected() -> (Connection, OwnedFd) {
    let (ours, theirs) = socket::pair(Kind::Stream).unwrap();
    (Connection::new(ours, FEATURES, QUEUES).unwrap(), theirs)
}

fn shake(connection: &mut Connection, client: &OwnedFd) {
    let set = message(R::SET_PROTOCOL_FEATURES, true, &u64s(&[ALL_PROTOCOL]));
    socket::send(client, &set, &[]).unwrap();
    assert!(connection.poll().unwrap().is_none());
    receive(client);
}

fn receive(client: &OwnedFd) -> Vec<u8> {
    let mut bytes = [0; 4200];
    let (n, files) = socket::receive(client, &mut bytes).unwrap();
    assert!(files.is_empty());
    bytes[..n].to_vec()
}

fn request(connection: &mut Connection) -> Call {
    match connection.poll() {
        Ok(Some(Incoming::Request(request))) => {
            connection.reply(request.token, Reply::Done).unwrap();
            request.call
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn descriptors_stay_with_their_messages_when_a_client_does_not_wait() {
    let (mut connection, client) = connected();
    let files = events(3);
    socket::send(&client, &message(R::SET_VRING_CALL, false, &u64s(&[0x105])), &[]).unwrap();
    socket::send(&client, &message(R::SET_VRING_KICK, false, &u64s(&[1])), &[files[0].as_fd()]).unwrap();
    socket::send(&client, &message(R::SET_VRING_NUM, false, &u32s(&[2, 8])), &[]).unwrap();
    let two = message(R::SET_MEM_TABLE, false, &table(2, &[[0, 4096, 0, 0], [8192, 4096, 8192, 0]]));
    // The header apart from the rest, as QEMU does.
    socket::send(&client, &two[..12], &[files[1].as_fd(), files[2].as_fd()]).unwrap();
    socket::send(&client, &two[12..], &[]).unwrap();
    assert!(matches!(request(&mut connection), Call::SetCall { ring: 5, event: None }));
    assert!(matches!(request(&mut connection), Call::SetKick { ring: 1, event: Some(_) }));
    assert!(matches!(request(&mut connection), Call::SetRingSize { ring: 2, size: 8 }));
    assert!(matches!(request(&mut connection), Call::SetMemTable(regions) if regions.len() == 2));
    assert!(connection.poll().unwrap().is_none());
}

#[test]
fn nothing_is_read_while_a_request_is_outstanding() {
    let (mut connection, client) = connected();
    for _ in 0..2 {
        socket::send(&client, &message(R::SET_VRING_NUM, false, &u32s(&[2, 8])), &[]).unwrap();
    }
    let Ok(Some(Incoming::Request(first))) = connection.poll() else { panic!() };
    assert!(!connection.interest().read && connection.poll().unwrap().is_none());
    connection.reply(first.token, Reply::Done).unwrap();
    assert!(connection.interest().read);
    request(&mut connection);
}

#[test]
fn a_message_that_was_received_whole_does_not_wait_for_another() {
    // However many messages without an answer come before: once the socket is empty, nothing is left in the machine.
    for before in 0..140 {
        let (mut connection, client) = connected();
        for _ in 0..before {
            socket::send(&client, &message(R::RESET_OWNER, false, &[]), &[]).unwrap();
        }
        socket::send(&client, &message(R::SET_VRING_NUM, false, &u32s(&[2, 8])), &[]).unwrap();
        let mut polls = 0;
        while rustix::io::ioctl_fionread(connection.as_fd()).unwrap() > 0 {
            polls += 1;
            assert!(polls < 10);
            if let Some(event) = connection.poll().unwrap() {
                assert!(matches!(event, Incoming::Request(r) if matches!(r.call, Call::SetRingSize { .. })));
                polls = 99;
            }
        }
        assert_eq!(polls, 99, "after {before}");
    }
}

#[test]
fn the_ends_of_a_connection_are_told_apart() {
    let (mut connection, client) = connected();
    drop(client);
    assert_eq!(connection.poll().unwrap_err(), ConnectionError::Closed);

    let (mut connection, client) = connected();
    socket::send(&client, &message(R::SET_OWNER, false, &[])[..4], &[]).unwrap();
    assert!(connection.poll().unwrap().is_none());
    assert_eq!(connection.machine().stage(), Stage::MidMessage);
    drop(client);
    assert_eq!(connection.poll().unwrap_err(), ConnectionError::ClosedInMessage);

    let (mut connection, client) = connected();
    socket::send(&client, &raw(1, 3, &[]), &[]).unwrap();
    assert_eq!(connection.poll().unwrap_err(), ConnectionError::Protocol(ProtocolError::Version(3)));
}

#[test]
fn more_descriptors_than_a_message_may_carry_end_the_connection_and_are_closed() {
    let (mut connection, client) = connected();
    let (file, closed) = canary();
    let many = vec![file.as_fd(); 100];
    let bytes = message(R::SET_OWNER, false, &[]);
    // By hand: `socket::send` would not send so many.
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
    let iov = [std::io::IoSlice::new(&bytes)];
    rustix::net::sendmsg(&client, &iov, &mut control, rustix::net::SendFlags::empty()).unwrap();
    drop(file);
    assert_eq!(connection.poll().unwrap_err(), ConnectionError::DescriptorsLost);
    drop(connection);
    assert!(closed());
}

#[test]
fn a_change_of_configuration_is_told_on_the_clients_own_channel() {
    let (mut connection, client) = connected();
    connection.config_changed();
    shake(&mut connection, &client);
    let (theirs, ours) = socket::pair(Kind::Stream).unwrap();
    let set = message(R::SET_BACKEND_REQ_FD, true, &[]);
    socket::send(&client, &set, &[ours.as_fd()]).unwrap();
    drop(ours);
    let Call::SetBackendChannel(channel) = request(&mut connection) else { panic!("another call") };
    connection.set_channel(socket::channel(channel, |_| false).unwrap());
    assert_eq!(receive(&client)[12..], [0; 8]);
    connection.poll().unwrap();
    assert_eq!(receive(&theirs), config_changed(), "the one from before the channel was there");
    connection.config_changed();
    assert_eq!(receive(&theirs), config_changed());

    // A full channel holds nobody up, and loses no news.
    for _ in 0..100_000 {
        connection.config_changed();
    }
    while socket::receive(&theirs, &mut [0; 4096]).is_ok() {}
    connection.poll().unwrap();
    assert_eq!(receive(&theirs), config_changed());
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_either() {
    let (mut connection, client) = connected();
    let get = message(R::GET_FEATURES, false, &[]);
    let mut asked = 0;
    for _ in 0..100_000 {
        if socket::send(&client, &get, &[]).is_ok() {
            asked += 1;
        }
        assert!(connection.poll().unwrap().is_none());
        if connection.interest().write {
            break;
        }
    }
    assert!(!connection.interest().read && connection.machine().wants_deadline());
    assert!(asked > 1 && asked < 100_000);
    while socket::receive(&client, &mut [0; 4096]).is_ok() {
        assert!(connection.poll().unwrap().is_none());
    }
    assert!(connection.interest().read);
}
