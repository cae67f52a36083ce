//! What comes over the L4Re home's gates.

use nvme_l4re::kernel::{Cap, L4Error, Message};
use nvme_l4re_server::message::{FactoryCall, Interface, Meta, SessionCall, Words};
use nvme_policy::{FactoryRequest, SessionRequest, Trusted};

/// A message to the factory or to a session: one byte says to which, whether its sender has the S right and whether a
/// capability came with it, the next is the protocol's number, the rest are words.
pub fn l4re(data: &[u8]) {
    let [flags, protocol, rest @ ..] = data else { return };
    let words = rest.chunks(8).take(63).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let cap = (flags & 2 != 0).then_some(Cap(1 << 12));
    let message = Message { protocol: i64::from(*protocol as i8), words: words.collect(), cap };
    if flags & 4 == 0 {
        factory(&message, flags & 1 != 0);
    } else {
        session(&message);
    }
}

fn factory(message: &Message, special: bool) {
    match FactoryCall::parse(message, special) {
        Ok(FactoryCall::Create(words)) => {
            assert!(special && message.protocol == -15 && message.words[0] as i64 != -15);
            create(message, &words);
        }
        Ok(FactoryCall::Delegate(words)) => {
            assert!(special && message.protocol == -15 && message.words[0] as i64 == -15);
            create(message, &words);
        }
        Ok(FactoryCall::Meta(meta)) => answered(meta, FactoryCall::INTERFACES),
        Err(why) => refused(why),
    }
}

/// What is read is what was written, and nothing of what lies behind it.
fn create(message: &Message, words: &Words) {
    let mut said = vec![message.words[0]];
    for word in words.iter() {
        assert!(!word.contains(&0));
        let mut bytes = word.to_vec();
        bytes.push(0);
        said.push(2 | (bytes.len() as u64) << 16);
        let at = said.len();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        said.extend(bytes.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())));
        // What fills the last word up is not read.
        let pad = (word.len() + 1).next_multiple_of(8) - (word.len() + 1);
        let mask = u64::MAX.checked_shl(64 - 8 * pad as u32).unwrap_or(0);
        let last = said.len() - 1;
        assert!(last >= at);
        said[last] |= message.words[last] & mask;
    }
    assert_eq!(said, message.words.as_slice());
    let session = SessionRequest::from_words(words.iter(), &Trusted::NONE).err();
    let factory = FactoryRequest::from_words(words.iter(), &Trusted::NONE).err();
    for why in session.into_iter().chain(factory) {
        assert!(!why.to_string().chars().any(char::is_control));
    }
}

fn session(message: &Message) {
    let words = &message.words;
    match SessionCall::parse(message) {
        Ok(SessionCall::Meta(meta)) => answered(meta, SessionCall::INTERFACES),
        Ok(call) => {
            let low = words[0] as u32;
            let wanted = match (message.protocol, low) {
                (0, 0) => matches!(call, SessionCall::SetStatus(s) if u64::from(s) == words[0] >> 32),
                (0, 1) => matches!(call, SessionCall::ConfigQueue(q) if u64::from(q) == words[0] >> 32),
                (0, 3) => {
                    matches!(call, SessionCall::RegisterDs(r) if [r.base, r.offset, r.size] == words[1..4])
                        && message.cap.is_some()
                }
                (0, 4) => call == SessionCall::DeviceConfig,
                (0, 5) => matches!(call, SessionCall::NotificationIrq(i) if u64::from(i) == words[0] >> 32),
                (-1, 0) => matches!(call, SessionCall::Bind(i) if i == words[1]) && message.cap.is_some(),
                (-1, 2) => call == SessionCall::Info,
                (-1, 4) => call == SessionCall::Unmask,
                _ => false,
            };
            assert!(wanted, "{call:?}");
        }
        Err(why) => refused(why),
    }
}

fn refused(why: L4Error) {
    assert!(
        [L4Error::PERM, L4Error::INVAL, L4Error::NOSYS, L4Error::BADPROTO, L4Error::MSGTOOSHORT]
            .contains(&why)
    );
}

/// A name ends where its length says.
fn answered(meta: Meta, interfaces: &[Interface]) {
    let reply = meta.answer(interfaces);
    assert!(reply.cap.is_none());
    match reply.words.as_slice() {
        [] => assert!((-34..=2).contains(&reply.label)),
        [protocol, len, name @ ..] => {
            let bytes: Vec<u8> = name.iter().flat_map(|word| word.to_le_bytes()).collect();
            let len = usize::try_from(*len).unwrap();
            assert!(bytes.len() == len.next_multiple_of(8) && bytes[len - 1..].iter().all(|byte| *byte == 0));
            assert!(
                interfaces
                    .iter()
                    .any(|i| i.protocol == *protocol as i64 && bytes.starts_with(i.name.as_bytes()))
            );
        }
        [_] => panic!("half an interface"),
    }
}
