//! What is kept in case that this server is killed: a session's document is written anew whenever something of it may have changed.
//!
//! Before anything is read from a client, the board says that its document may not tell all; it says the contrary once the document does, and
//! not before what was asked is done and answered. A session that is minted is kept before anybody hears of it, and one that ends is gone
//! on the board before that. `factories`: the same of those that callers made. `handed`:
//! all of it is handed over.

mod factories;
mod handed;

use std::os::fd::{AsFd, OwnedFd};

use nvme_handover as handover;
use nvme_handover::{KeptServer, KeptSession};
use nvme_linux::events::Interest;
use nvme_linux::keep::{NotKept, Shelf, Stale};
use nvme_linux::logger::{OPERATOR, SERVER};
use nvme_platform::Time;
use nvme_policy::Errno;

use super::records::Minted;
use super::waiting::{Call, refused};
use super::{Server, Watched};
use crate::keep::{self, Keep, Kept, PATIENCE, State, Unkept};
use crate::seat::{Phase, Seat};
use crate::upgrade::Files;

/// What was minted, and is not granted before it is kept.
pub(super) struct Unminted {
    ticket: u64,
    pub(super) until: Time,
    pub(super) call: Call,
    minted: Minted,
    fds: Vec<OwnedFd>,
}

const NOT_KEPT: &str = "it cannot be kept in case that the server is killed";

impl Server {
    /// Something of a session may change from here on.
    pub(super) fn touch(&mut self, id: u32) {
        self.mark(id, false);
    }

    /// Something is read from a session's client from here on, or its connection closed.
    pub(super) fn will_read(&mut self, id: u32) {
        self.mark(id, true);
    }

    fn mark(&mut self, id: u32, reads: bool) {
        let Some(keep) = &mut self.keep else { return };
        // As long as it is being taken up nothing is read from its client, and what the server before left is all that there is.
        let goes_on = |seat: &&Seat| seat.phase != Phase::Ending && !seat.is_going_on();
        let goes_on = self.seats.get(&id).filter(goes_on);
        if let Some(kept) = goes_on.and_then(|seat| seat.kept.as_ref()) {
            keep.touched.insert(id);
            if reads {
                keep.board.set(kept.slot, State::Says);
            }
        }
    }

    /// Keeps a session from now on. The number of the order to the manager; `None` where nothing is kept.
    pub(super) fn keep_seat(&mut self, id: u32) -> Result<Option<u64>, Unkept> {
        let Some(keep) = &mut self.keep else { return Ok(None) };
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(None) };
        let Some(number) = seat.key.map(|key| key.0) else { return Ok(None) };
        let shelf = Shelf::new()?;
        let ends = keep::copies(&shelf)?;
        let slot = keep.board.take(number).ok_or(Unkept::NoRoom)?;
        let name = keep::session(number);
        seat.kept = Some(Kept { shelf, slot, name: name.clone() });
        keep.touched.insert(id);
        keep.board.set(slot, State::Says);
        keep.stale = true;
        self.keep_changes();
        let keep = self.keep.as_mut();
        Ok(keep.map(|keep| keep.keeper.keep(name, ends)))
    }

    pub(super) fn not_kept(&mut self, id: u32, why: &Unkept) {
        self.unkeep(id);
        if let Some(seat) = self.seats.get(&id) {
            log::warn!(target: OPERATOR, "{}: {NOT_KEPT}: {why}", seat.name);
        }
    }

    /// A session ends: from here on it is none that the next server takes up.
    pub(super) fn will_be_gone(&mut self, id: u32) {
        let kept = self.seats.get(&id).and_then(|seat| seat.kept.as_ref());
        if let (Some(keep), Some(kept)) = (&mut self.keep, kept) {
            keep.board.set(kept.slot, State::Gone);
            keep.touched.remove(&id);
        }
    }

    /// A session has ended: nothing of it is kept any more.
    pub(super) fn unkeep(&mut self, id: u32) {
        let Some(keep) = &mut self.keep else { return };
        keep.touched.remove(&id);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(kept) = seat.kept.take() else { return };
        keep.forget(&kept);
        seat.lane.put(move || drop(kept));
    }

    /// Has what was minted kept. What is returned need not be waited for.
    pub(super) fn keep_minted(
        &mut self,
        call: Call,
        minted: Minted,
        fds: Vec<OwnedFd>,
        time: Time,
    ) -> Option<(Call, Minted, Vec<OwnedFd>)> {
        let ordered = match minted {
            Minted::Session(key) => match self.by_session.get(&key).copied() {
                Some(id) => self.keep_seat(id),
                None => Ok(None),
            },
            Minted::Factory(id) => self.keep_post(id),
        };
        match ordered {
            Ok(None) => Some((call, minted, fds)),
            Ok(Some(ticket)) => {
                if let Some(Watched::Caller(caller, ..)) = self.watched.get(&call.token) {
                    // Nothing more is read from there meanwhile.
                    let _ = self.epoll.modify(caller, call.token, Interest::Hangup);
                }
                let until = time + PATIENCE * 2;
                self.unkept.push(Unminted { ticket, until, call, minted, fds });
                None
            }
            Err(why) => {
                self.refuse_unkept(call, minted, &why, time);
                None
            }
        }
    }

    fn refuse_unkept(&mut self, call: Call, minted: Minted, why: &Unkept, time: Time) {
        match minted {
            Minted::Session(key) => {
                if let Some(id) = self.by_session.get(&key).copied() {
                    self.end(id, NOT_KEPT);
                }
            }
            Minted::Factory(id) => self.take_back(id, NOT_KEPT),
        }
        self.refuse(call, refused(Errno::NoMemory, &format!("{NOT_KEPT}: {why}")), time);
    }

    /// The manager has something, or not.
    pub(super) fn hear_keeper(&mut self, time: Time) {
        while let Some((ticket, kept)) = self.keep.as_ref().and_then(|keep| keep.keeper.answer()) {
            match self.unkept.iter().position(|unkept| unkept.ticket == ticket) {
                Some(at) => {
                    let unkept = self.unkept.swap_remove(at);
                    self.kept(unkept, kept, time);
                }
                None => {
                    if let Err(why) = kept {
                        log::warn!(target: SERVER, "a session, a factory or the server itself: {NOT_KEPT}: {why}");
                    }
                }
            }
        }
    }

    pub(super) fn expire_unkept(&mut self, time: Time) {
        while let Some(at) = self.unkept.iter().position(|unkept| time >= unkept.until) {
            let unkept = self.unkept.swap_remove(at);
            self.kept(unkept, Err(NotKept::Late), time);
        }
    }

    fn kept(&mut self, unkept: Unminted, kept: Result<(), NotKept>, time: Time) {
        let Unminted { call, minted, fds, .. } = unkept;
        if let Some(Watched::Caller(caller, ..)) = self.watched.get(&call.token) {
            let _ = self.epoll.modify(caller, call.token, Interest::Read);
        }
        match kept {
            Ok(()) => self.hand_out_kept(call, minted, fds, time),
            Err(why) => self.refuse_unkept(call, minted, &why.into(), time),
        }
        self.serve_caller(call.token, time);
    }

    /// Writes what has changed.
    pub(super) fn keep_changes(&mut self) {
        let Some(mut keep) = self.keep.take() else { return };
        if core::mem::take(&mut keep.stale) {
            match self.server_document(&mut keep) {
                Ok(()) => {}
                Err(why) => {
                    keep.stale = true;
                    log::debug!("what is kept of the server is as it was: {why}");
                }
            }
        }
        for id in core::mem::take(&mut keep.factories) {
            match self.write_post(id) {
                Ok(()) => {}
                // What is stale is on its way out.
                Err(Unkept::System(rustix::io::Errno::AGAIN)) => drop(keep.factories.insert(id)),
                Err(why) => log::warn!(target: OPERATOR, "{}: {NOT_KEPT}: {why}", self.post_name(id)),
            }
        }
        for id in core::mem::take(&mut keep.touched) {
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            // What a client asked for is done first.
            if !seat.rests() || seat.is_going_on() {
                keep.touched.insert(id);
                continue;
            }
            let Some(mut kept) = seat.kept.take() else { continue };
            let written = self.session_document(id, &mut kept);
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            match written {
                Ok(Some((stale, said))) => {
                    if !said {
                        keep.board.set(kept.slot, State::Told);
                    }
                    seat.lane.put(move || drop(stale));
                }
                Ok(None) => {}
                // What is stale is on its way out.
                Err(Unkept::System(rustix::io::Errno::AGAIN)) => drop(keep.touched.insert(id)),
                Err(why) => log::warn!(target: OPERATOR, "{}: {NOT_KEPT}: {why}", seat.name),
            }
            seat.kept = Some(kept);
        }
        self.keep = Some(keep);
    }

    /// Writes a session's document. What is stale, and whether a client said something that is not whole, or was not answered. `None`: there
    /// is nothing to go on with.
    fn session_document(&self, id: u32, kept: &mut Kept) -> Result<Option<(Stale, bool)>, Unkept> {
        let mut files = Files::default();
        let Some(seat) = self.seats.get(&id) else { return Ok(None) };
        let Ok(Some(session)) = self.session_state(id, seat, &mut files) else { return Ok(None) };
        let said = session.connection.as_ref().is_some_and(|connection| {
            !connection.machine.input.is_empty() || !connection.machine.output.is_empty()
        });
        let document = KeptSession { slot: kept.slot, session };
        Ok(Some((keep::put(&mut kept.shelf, &document, &files)?, said)))
    }

    fn server_document(&self, keep: &mut Keep) -> Result<(), Unkept> {
        let Keep { board, own, before, crashes, shelf, .. } = keep;
        let mut files = Files::default();
        let capabilities = self.capabilities_with(&mut files);
        let board = files.add(board.file());
        let mut gates = Vec::new();
        for gate in own.iter().chain(&*before) {
            gates.push(handover::Gate { serial: gate.serial.clone(), file: files.add(gate.end.as_fd()) });
        }
        let catalogue = self.control.catalogue();
        let document = KeptServer {
            capabilities,
            hardware: self.functions().map(|(word, _)| word.to_owned()).collect(),
            board,
            gates,
            next_session: catalogue.next_session(),
            next_factory: catalogue.next_factory(),
            factories: self.fixed_factories(),
            drained: handover::drained(&self.control),
            crashes: crashes.clone(),
        };
        keep::put(shelf, &document, &files).map(drop)
    }
}
