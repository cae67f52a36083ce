//! What comes over the Linux home's sockets, the words of `--cap`, and what one server hands over to the next.

use std::os::fd::OwnedFd;

use nvme_handover::{Capabilities, DOCUMENT_MAX, Document, KeptFactory, KeptServer, KeptSession, State};
use nvme_linux::caps::{CapWord, Place, SoftSource, Spec};
use nvme_linux::factory::{Request, WORDS_MAX};
use nvme_policy::Policy;

/// A datagram to the factory, with as many descriptors as the first byte says; none of them is a listening socket.
pub fn factory(data: &[u8]) {
    let Some((&files, datagram)) = data.split_first() else { return };
    let files: Vec<OwnedFd> = (0..files % 4)
        .filter_map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok())
        .collect();
    let none = files.is_empty();
    match Request::parse(datagram, files) {
        Ok(mut request) => {
            assert!(none && !request.has_listener() && request.take_listener().is_none());
            assert!(datagram.len() <= 4096);
            let words: Vec<&str> = request.words().collect();
            assert!(words.len() <= WORDS_MAX && words.iter().all(|w| !w.is_empty()));
            assert_eq!(words.join("\0").as_bytes(), datagram);
            let _ = Policy::from_words(words.into_iter().skip(2));
        }
        Err(refusal) => assert!(refusal.errno > 0 && !refusal.message.is_empty()),
    }
}

/// A word of `--cap`: what is taken is what `caps` says that it can be.
pub fn cap_word(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let word = match text.parse::<CapWord>() {
        Ok(word) => word,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert!(!word.name.is_empty() && !word.name.contains(['=', ':']));
    assert!(text.starts_with(&word.name));
    let place = |place: &Place| match place {
        Place::Path(path) => assert!(!path.as_os_str().is_empty()),
        Place::Fd(number) => assert!(*number >= 3),
    };
    match &word.spec {
        Spec::Pci { address, .. } => assert!(address.len() == 12 && !address.contains(char::is_uppercase)),
        Spec::File(at) | Spec::Trail { place: at, .. } => place(at),
        Spec::Peer(_) => panic!("no word says this"),
        Spec::Tcp(address) => assert!(address.ip().is_loopback() || text.ends_with(",public")),
        Spec::Unix { place: at, options } => {
            place(at);
            assert!(options.mode.is_none_or(|mode| mode <= 0o777));
        }
        Spec::Soft { source, options } => {
            let block = options.block_size();
            assert!(block == 512 || block == 4096);
            if let Some(serial) = &options.serial {
                assert!((1..=20).contains(&serial.len()) && serial.trim() == serial);
                assert!(serial.bytes().all(|b| (b' '..=b'~').contains(&b)));
            }
            match source {
                SoftSource::Image(at) => place(at),
                SoftSource::Memory(size) => assert!(*size > 0 && size.is_multiple_of(block.into())),
            }
        }
    }
    let inherited = matches!(
        &word.spec,
        Spec::File(Place::Fd(_))
            | Spec::Trail { place: Place::Fd(_), .. }
            | Spec::Unix { place: Place::Fd(_), .. }
            | Spec::Soft { source: SoftSource::Image(Place::Fd(_)), .. }
    );
    assert_eq!(word.spec.fd().is_some(), inherited);
}

/// A document, of one kind or another, that came with as many descriptors as the first byte says: refused, or what it is written as.
pub fn handover(data: &[u8]) {
    fn read<D: Document + PartialEq + std::fmt::Debug>(bytes: &[u8], count: usize) {
        let Ok(document) = D::read(bytes, count) else { return };
        let mut named: Vec<u32> = document.files().into_iter().map(|file| file.0).collect();
        named.sort_unstable();
        assert!(named.into_iter().eq(0..count as u32), "each descriptor is named once");
        let written = document.write().expect("what was read can be written");
        assert!(written.len() <= DOCUMENT_MAX);
        assert_eq!(D::read(&written, count).expect("and read again"), document);
    }
    let Some((&count, bytes)) = data.split_first() else { return };
    read::<Capabilities>(bytes, count.into());
    read::<State>(bytes, count.into());
    read::<KeptServer>(bytes, count.into());
    read::<KeptSession>(bytes, count.into());
    read::<KeptFactory>(bytes, count.into());
}
