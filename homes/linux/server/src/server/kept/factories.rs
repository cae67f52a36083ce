//! Factories that callers made, kept in case that this server is killed.
//!
//! A factory's document changes seldom: when its devices come, and when its holder's socket is shut down. What its caller asks for changes the
//! board alone: a call that was read and not answered is answered by the next server, which refuses it; only where this one is killed in the
//! very moment of reading or of answering nobody knows whether there is a call, and that connection is closed.

use nvme_handover as handover;
use nvme_handover::KeptFactory;
use nvme_linux::keep::Shelf;
use nvme_session::factory::FactoryId;

use super::super::factories::Post;
use super::super::{Server, Watched};
use crate::keep::{self, Kept, State, Unkept};
use crate::upgrade::Files;

impl Server {
    /// Keeps a factory from now on. The number of the order to the manager; `None` where nothing is kept.
    pub(super) fn keep_post(&mut self, id: FactoryId) -> Result<Option<u64>, Unkept> {
        let Some(keep) = &mut self.keep else { return Ok(None) };
        let Some(post) = self.posts.get_mut(&id) else { return Ok(None) };
        let shelf = Shelf::new()?;
        let ends = keep::copies(&shelf)?;
        let slot = keep.board.take(id.number()).ok_or(Unkept::NoRoom)?;
        let name = keep::factory(id.number());
        post.kept = Some(Kept { shelf, slot, name: name.clone() });
        keep.stale = true;
        self.write_post(id)?;
        self.keep_changes();
        let Some(keep) = &mut self.keep else { return Ok(None) };
        keep.board.set(slot, State::Told);
        Ok(Some(keep.keeper.keep(name, ends)))
    }

    /// Writes a factory's document.
    pub(super) fn write_post(&mut self, id: FactoryId) -> Result<(), Unkept> {
        let Some(mut kept) = self.posts.get_mut(&id).and_then(|post| post.kept.take()) else { return Ok(()) };
        let written = self.post_document(id, &mut kept);
        if let Some(post) = self.posts.get_mut(&id) {
            post.kept = Some(kept);
        }
        written
    }

    fn post_document(&self, id: FactoryId, kept: &mut Kept) -> Result<(), Unkept> {
        let Some(factory) = self.control.catalogue().factory(id) else { return Ok(()) };
        let mut files = Files::default();
        let document = KeptFactory { slot: kept.slot, factory: self.factory_state(factory, &mut files) };
        keep::put(&mut kept.shelf, &document, &files).map(drop)
    }

    /// The operator's factories: what they hold is theirs in the next server, too, whatever a table says by then.
    pub(super) fn fixed_factories(&self) -> Vec<handover::Factory> {
        let fixed = |id: &FactoryId| self.posts.get(id).is_some_and(|post| post.cap.is_some());
        let factories = self.control.catalogue().factories().filter(|factory| fixed(&factory.id()));
        factories.map(|factory| self.factory_state(factory, &mut Files::default())).collect()
    }

    /// What factories hold may be other than it was.
    pub(in super::super) fn touch_factories(&mut self) {
        let Some(keep) = &mut self.keep else { return };
        keep.stale = true;
        keep.factories.extend(self.posts.keys().copied());
    }

    /// A factory is other than its document says.
    pub(in super::super) fn touch_factory(&mut self, id: FactoryId) {
        if let Some(keep) = &mut self.keep {
            keep.factories.insert(id);
        }
    }

    /// Says how far the caller is that a factory is had by. Of others nothing is kept.
    pub(in super::super) fn mark_caller(&self, token: u64, state: State) {
        let Some(keep) = &self.keep else { return };
        // One that was cut off has a factory that ended.
        let Some(Watched::Caller(_, at, _)) = self.watched.get(&token) else { return };
        let post = self.posts.get(at).filter(|post| post.connection == Some(token));
        if let Some(kept) = post.and_then(|post| post.kept.as_ref()) {
            keep.board.set(kept.slot, state);
        }
    }

    /// Factories end: from here on they are none that the next server takes up.
    pub(in super::super) fn factories_will_be_gone(&mut self, ending: &[FactoryId]) {
        let Some(keep) = &mut self.keep else { return };
        for id in ending {
            keep.factories.remove(id);
            if let Some(kept) = self.posts.get(id).and_then(|post| post.kept.as_ref()) {
                keep.board.set(kept.slot, State::Gone);
            }
        }
    }

    /// A factory has ended: nothing of it is kept any more.
    pub(in super::super) fn unkeep_post(&mut self, post: &mut Post) {
        let (Some(keep), Some(kept)) = (&mut self.keep, post.kept.take()) else { return };
        keep.forget(&kept);
        kept.dispose();
    }
}
