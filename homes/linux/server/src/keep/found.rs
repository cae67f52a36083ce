//! What the server before left with the service manager.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nvme_handover::{Crash, Document, Drained, Factory, KeptFactory, KeptServer, KeptSession};
use nvme_linux::caps::{CapWord, Inherited, NamedFd};
use nvme_linux::keep::{Manager, Shelf};
use nvme_linux::logger::SERVER;

use super::{Board, FACTORY, Gate, PREFIX, server};
use crate::upgrade::{Given, read_sealed};

/// What lies under one name.
pub(crate) struct Leavings {
    pub(crate) name: String,
    pub(super) ends: Vec<OwnedFd>,
}

impl Leavings {
    /// The document there, with what it names, and the shelf.
    fn read<D: Document>(&mut self) -> Result<(D, Given, Shelf), String> {
        let ends = core::mem::take(&mut self.ends);
        let ends = <[OwnedFd; 2]>::try_from(ends).map_err(|_| "it is not what a server kept".to_owned())?;
        let (shelf, files) = Shelf::read(ends).map_err(|why| why.to_string())?;
        let mut files = files.into_iter();
        let document = files.next().ok_or("there is no document")?;
        let given = Given::from(files.collect::<Vec<_>>());
        let bytes = read_sealed(&document).map_err(|why| why.to_string())?;
        Ok((D::read(&bytes, given.len()).map_err(|why| why.to_string())?, given, shelf))
    }

    /// A session.
    pub(crate) fn session(mut self) -> Result<(KeptSession, Given, Shelf), String> {
        self.read()
    }

    /// A factory.
    pub(crate) fn factory(mut self) -> Result<(KeptFactory, Given, Shelf), String> {
        self.read()
    }
}

/// All that the server before left.
pub(crate) struct Found {
    /// The board, the server's own shelf, gates and crashes; until they are taken.
    own: Option<(Board, Shelf, Vec<Gate>, Vec<Crash>)>,
    /// The operator's factories, as they were.
    pub(crate) fixed: Vec<Factory>,
    /// Those that callers made.
    pub(crate) factories: Vec<Leavings>,
    pub(crate) sessions: Vec<Leavings>,
    pub(crate) next_session: u64,
    pub(crate) next_factory: u64,
    pub(crate) drained: Vec<Drained>,
    /// The capabilities `upgrade` is among what it had: whoever connects there would find nobody.
    pub(crate) had_upgrade: bool,
}

impl Found {
    pub(super) fn take(&mut self) -> Option<(Board, Shelf, Vec<Gate>, Vec<Crash>)> {
        self.own.take()
    }

    /// Looks through what was kept, and puts the capabilities of the server before in the place of what would be opened anew. `None`: it
    /// left nothing, or nothing that can be gone on with; the manager is told to let go of that.
    pub(crate) fn find(manager: &Manager, inherited: &mut Inherited, words: &[CapWord]) -> Option<Self> {
        let mut by_name: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for NamedFd { name, fd } in inherited.listen.extract_if(.., |known| known.name.starts_with(PREFIX)) {
            by_name.entry(name).or_default().push(fd);
        }
        let names: Vec<String> = by_name.keys().cloned().collect();
        if names.is_empty() {
            return None;
        }
        let mut own = Leavings { ends: by_name.remove(&server()).unwrap_or_default(), name: server() };
        let found = own.read::<KeptServer>().and_then(|(document, given, shelf)| {
            Self::open(document, given, shelf, by_name, inherited, words)
        });
        match found {
            Ok(found) => Some(found),
            Err(why) => {
                log::warn!(target: SERVER, "what the server before left is let go of, and its sessions end: {why}");
                let until = nvme_linux::events::now() + super::PATIENCE;
                for name in names {
                    let _ = manager.let_go(&name, until);
                }
                None
            }
        }
    }

    fn open(
        document: KeptServer,
        mut given: Given,
        shelf: Shelf,
        by_name: BTreeMap<String, Vec<OwnedFd>>,
        inherited: &mut Inherited,
        words: &[CapWord],
    ) -> Result<Self, String> {
        let KeptServer {
            capabilities,
            hardware,
            board,
            gates,
            next_session,
            next_factory,
            factories: fixed,
            drained,
            crashes,
        } = document;
        let board = Board::of(given.take(board)?).map_err(|why| why.to_string())?;
        let gate = |gate: nvme_handover::Gate| Ok(Gate { serial: gate.serial, end: given.take(gate.file)? });
        let gates = gates.into_iter().map(gate).collect::<Result<_, String>>()?;
        let known = |word: &String| words.iter().any(|other| other.text == *word);
        let before = capabilities.iter().filter_map(|capability| capability.word.as_ref()).chain(&hardware);
        let gone = before.clone().find(|word| !known(word));
        if let Some(word) = gone {
            return Err(format!("it was started with `{word}`, and this one is not"));
        }
        let had_upgrade = capabilities.iter().any(|capability| capability.name == "upgrade");
        let mut handed = Vec::new();
        for capability in capabilities {
            let fd = given.take(capability.file)?;
            // What is passed by name is passed again; of what holds a lock, that which holds it counts.
            let again = |known: &NamedFd| known.name == capability.name;
            match inherited.listen.iter().position(again) {
                _ if capability.word.is_some() => {}
                Some(at) => drop(inherited.listen.remove(at)),
                None => continue,
            }
            handed.push((capability.word, NamedFd { name: capability.name, fd }));
        }
        inherited.hand_over(handed);
        let left = by_name.into_iter().map(|(name, ends)| Leavings { name, ends });
        let (factories, sessions) = left.partition(|leavings| leavings.name.starts_with(FACTORY));
        let own = Some((board, shelf, gates, crashes));
        Ok(Self { own, fixed, factories, sessions, next_session, next_factory, drained, had_upgrade })
    }
}
