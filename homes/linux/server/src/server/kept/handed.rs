//! What is kept goes on in the next server, where it is.
//!
//! The service manager is not asked for anything: it has the same shelves all the time. Up to the last step they say what the server before
//! had when it stood still. The next one's first document replaces its: by one store, board, gates and all are the next one's. So whoever dies, and
//! when, one of the two is found as a whole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_core::server::message::SessionKey;
use nvme_handover as handover;
use nvme_linux::keep::Shelf;
use nvme_linux::logger::SERVER;
use rustix::io::fcntl_dupfd_cloexec;

use super::super::Server;
use super::super::handover::Stays;
use crate::keep::{self, Board, Gate, Kept, State};
use crate::upgrade::{Files, Given};

/// Where what is kept of each lies.
type Places<'a> = Vec<(u64, &'a Kept)>;

impl Server {
    fn places(&self) -> (Places<'_>, Places<'_>) {
        let sessions = self.seats.values().filter_map(|seat| Some((seat.key?.0, seat.kept.as_ref()?)));
        let factories = self.posts.iter().filter_map(|(id, post)| Some((id.number(), post.kept.as_ref()?)));
        (sessions.collect(), factories.collect())
    }

    /// Whether nothing is stale anywhere, and all is told that can be.
    pub(in super::super) fn store_is_settled(&self) -> bool {
        let Some(keep) = &self.keep else { return true };
        let (sessions, factories) = self.places();
        let clean = |(_, kept): &(u64, &Kept)| kept.shelf.at().is_some();
        keep.shelf.at().is_some()
            && !keep.stale
            && keep.touched.is_empty()
            && sessions.iter().chain(&factories).all(clean)
    }

    /// All of it for the next server.
    pub(in super::super) fn store_state<'a>(
        &'a self,
        files: &mut Files<'a>,
    ) -> Result<Option<handover::Store>, Stays> {
        let Some(keep) = &self.keep else { return Ok(None) };
        let (sessions, factories) = self.places();
        let mut shelf = |shelf: &'a Shelf| {
            let stale = || Stays::Why("what is kept is still being written".into());
            let (version, messages) = shelf.at().ok_or_else(stale)?;
            let [reader, writer] = shelf.ends().map(|end| files.add(end));
            Ok::<_, Stays>(handover::Shelf { reader, writer, version, messages })
        };
        let own = shelf(&keep.shelf)?;
        let mut shelved = |places: Places<'a>| {
            let shelved = places.into_iter().map(|(number, kept)| {
                let told = keep.board.is_told(kept.slot);
                Ok(handover::Shelved { number, slot: kept.slot, told, shelf: shelf(&kept.shelf)? })
            });
            shelved.collect::<Result<Vec<_>, Stays>>()
        };
        let (sessions, factories) = (shelved(sessions)?, shelved(factories)?);
        let gates = keep.own.iter().chain(keep.before.iter().filter(|gate| !gate.is_open()));
        let gate = |gate: &'a Gate, file| handover::Gate { serial: gate.serial.clone(), file };
        let gates = gates.map(|g| gate(g, files.add(g.end.as_fd()))).collect();
        let board = files.add(keep.board.file());
        Ok(Some(handover::Store { board, own, gates, crashes: keep.crashes.clone(), sessions, factories }))
    }

    /// Goes on with what the server before keeps. The board of that one; `None`: nothing is kept.
    pub(in super::super) fn adopt_store(
        &mut self,
        store: Option<handover::Store>,
        given: &mut Given,
    ) -> Result<Option<Board>, String> {
        let Some(store) = store else {
            self.keep = None;
            return Ok(None);
        };
        let Some(keep) = &mut self.keep else { return Err("nothing was said of what is kept".into()) };
        let shelf = |given: &mut Given, shelf: handover::Shelf| -> Result<Shelf, String> {
            let ends = [given.take(shelf.reader)?, given.take(shelf.writer)?];
            Ok(Shelf::go_on(ends, (shelf.version, shelf.messages)))
        };
        let board = Board::of(given.take(store.board)?).map_err(|why| why.to_string())?;
        keep.shelf = shelf(given, store.own)?;
        for handover::Gate { serial, file } in store.gates {
            keep.before.push(Gate { serial, end: given.take(file)? });
        }
        keep.crashes = store.crashes;
        let mut kept = |given: &mut Given, shelved: &handover::Shelved, name: String| {
            let state = if shelved.told { State::Told } else { State::Says };
            if !keep.board.take_at(shelved.slot, shelved.number, state) {
                return Err(format!("{name}: its place is another's"));
            }
            Ok(Kept { shelf: shelf(given, shelved.shelf)?, slot: shelved.slot, name })
        };
        for shelved in store.sessions {
            let id = self.by_session.get(&SessionKey(shelved.number));
            let seat = id.and_then(|id| self.seats.get_mut(id));
            let seat = seat.ok_or_else(|| format!("session {} is kept, and is not there", shelved.number))?;
            seat.kept = Some(kept(given, &shelved, keep::session(shelved.number))?);
        }
        for shelved in store.factories {
            let id = self.control.catalogue().factory_numbered(shelved.number);
            let post = id.and_then(|id| self.posts.get_mut(&id));
            let post = post.ok_or_else(|| format!("factory {} is kept, and is not there", shelved.number))?;
            post.kept = Some(kept(given, &shelved, keep::factory(shelved.number))?);
        }
        Ok(Some(board))
    }

    /// Everything is this server's. `board`: that of the server before; `link`: where that one says that the service manager knows of this one.
    pub(in super::super) fn go_on_keeping(&mut self, board: Option<&Board>, link: BorrowedFd<'_>) {
        let (Some(mut keep), Some(board)) = (self.keep.take(), board) else { return };
        let written = self.server_document(&mut keep);
        let behind: Result<OwnedFd, _> = fcntl_dupfd_cloexec(link, 0);
        match (written, behind) {
            (Ok(()), Ok(behind)) => keep.keeper.wait_behind(behind),
            (written, behind) => {
                let why = written.err().map(|why| why.to_string());
                let why = why.or(behind.err().map(|why| why.to_string())).unwrap_or_default();
                log::error!(target: SERVER, "nothing is kept from here on: {why}");
                // Whoever is started next finds that all of it has ended.
                board.settle();
                keep.board.clear();
                self.seats.values_mut().for_each(|seat| seat.kept = None);
                self.posts.values_mut().for_each(|post| post.kept = None);
                return;
            }
        }
        keep.stale = false;
        self.keep = Some(keep);
        self.watch_gates();
        self.keep_the_rest();
    }

    /// Sessions of static clients may be there that could not be kept before.
    fn keep_the_rest(&mut self) {
        let rest: Vec<u32> = (self.seats.iter())
            .filter(|(_, seat)| seat.key.is_some() && seat.kept.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in rest {
            if let Err(why) = self.keep_seat(id) {
                self.not_kept(id, &why);
            }
        }
    }
}
