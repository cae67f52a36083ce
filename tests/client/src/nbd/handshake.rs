//! The fixed newstyle negotiation.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::LEN_MAX;
use crate::{Client, Error, Result, feature, socket};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY: u64 = 0x3_e889_0455_65a9;
/// Both sides: fixed newstyle, and no zeroes after the answer to `EXPORT_NAME`.
const FLAGS: u16 = 3;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;

/// How long the other side may take.
const WAIT: Duration = Duration::from_secs(20);
/// The longest option: a name of 4,096 bytes and what goes with it.
const OPTION_MAX: u32 = 8192;

/// What the device can do.
fn flags(client: &Client) -> u16 {
    let known = [
        (feature::RO, READ_ONLY),
        (feature::FLUSH, SEND_FLUSH),
        (feature::DISCARD, SEND_TRIM),
        (feature::WRITE_ZEROES, SEND_WRITE_ZEROES),
    ];
    known.iter().filter(|(feature, _)| client.has(*feature)).fold(HAS_FLAGS, |all, (_, flag)| all | flag)
}

/// Negotiates; says whether requests follow.
pub(super) fn shake(connection: &OwnedFd, client: &Client) -> Result<bool> {
    let send = |parts: &[&[u8]]| socket::send(connection.as_fd(), &parts.concat(), &[], socket::until(WAIT));
    let (size, flags) = ((client.config.capacity * 512).to_be_bytes(), flags(client).to_be_bytes());
    send(&[&MAGIC.to_be_bytes(), &OPTION.to_be_bytes(), &FLAGS.to_be_bytes()])?;
    let mut theirs = [0; 4];
    if !receive(connection, &mut theirs)? {
        return Ok(false);
    }
    let no_zeroes = u32::from_be_bytes(theirs) & 2 != 0;
    loop {
        let mut head = [0; 16];
        if !receive(connection, &mut head)? {
            return Ok(false);
        }
        let [m0, m1, m2, m3, m4, m5, m6, m7, o0, o1, o2, o3, l0, l1, l2, l3] = head;
        let (option, len) = (u32::from_be_bytes([o0, o1, o2, o3]), u32::from_be_bytes([l0, l1, l2, l3]));
        if u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]) != OPTION || len > OPTION_MAX {
            return Err(Error::Protocol("an NBD client that sends no option".into()));
        }
        if !receive(connection, &mut vec![0; len as usize])? {
            return Ok(false);
        }
        let reply = |kind: u32, data: &[u8]| {
            let (kind, len) = (kind.to_be_bytes(), (data.len() as u32).to_be_bytes());
            send(&[&REPLY.to_be_bytes(), &option.to_be_bytes(), &kind, &len, data])
        };
        // There is one export, whatever it is called.
        match option {
            OPT_EXPORT_NAME => {
                let zeroes = [0; 124];
                send(&[&size, &flags, if no_zeroes { &[] } else { &zeroes }])?;
                return Ok(true);
            }
            OPT_ABORT => {
                reply(REP_ACK, &[])?;
                return Ok(false);
            }
            OPT_INFO | OPT_GO => {
                reply(REP_INFO, &[&INFO_EXPORT.to_be_bytes()[..], &size, &flags].concat())?;
                let block = client.config.blk_size.max(512).to_be_bytes();
                let (best, max) = (4096_u32.to_be_bytes(), LEN_MAX.to_be_bytes());
                reply(REP_INFO, &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &block, &best, &max].concat())?;
                reply(REP_ACK, &[])?;
                if option == OPT_GO {
                    return Ok(true);
                }
            }
            _ => reply(REP_ERR_UNSUP, &[])?,
        }
    }
}

/// Fills `into`; `false`: the other side hung up.
fn receive(connection: &OwnedFd, into: &mut [u8]) -> Result<bool> {
    match socket::receive_exact(connection.as_fd(), into, socket::until(WAIT)) {
        Ok(_) => Ok(true),
        Err(Error::Closed) => Ok(false),
        Err(other) => Err(other),
    }
}
