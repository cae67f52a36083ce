//! An image in memory (tmpfs), mapped and copied.
//!
//! A page that cannot be had (the file system is full, the file is shorter by now) is not there: the handler of SIGBUS puts a
//! page of zeroes in its place and writes down which. Whoever used that page asks afterwards, and makes the call that the copy
//! stood for instead: its answer is the request's. The file's page is put back at once.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nvme_mem::Window;
use nvme_soft::{Begun, Failure, Job, Request, Resident};

use super::facts::MAP_MAX;
use super::helpers;
use super::image::Image;
use super::task::Task;
use crate::memory::{Faults, map_image};

/// How much more than there is of an image is mapped, at least, so that it may grow: that takes addresses, and no memory.
const ROOM: u64 = 64 << 30;

pub(super) struct Mapped {
    window: Window,
    faults: Arc<Faults>,
}

impl Mapped {
    /// `grows`: more is mapped than there is, if there are addresses for it.
    pub(super) fn new(file: BorrowedFd<'_>, size: u64, writable: bool, grows: bool) -> Result<Self, String> {
        let reach = size.saturating_add(size.max(ROOM)).min(MAP_MAX);
        let more = if grows && reach > size { map_image(file, reach, writable).ok() } else { None };
        let (window, faults) = more.map_or_else(|| map_image(file, size, writable), Ok)?;
        Ok(Self { window, faults })
    }

    /// How long the image may become.
    pub(super) fn reach(&self) -> u64 {
        self.window.len() as u64
    }

    /// What the controller copies from and to itself.
    pub(super) fn resident(&self) -> Resident {
        Resident { window: self.window.clone(), missing: Arc::clone(self.faults.missing()) }
    }

    /// Does it here. `Err`: it is a helper's.
    pub(super) fn begin(&self, image: &Arc<Image>, request: Request) -> Result<Begun, Request> {
        match request.job() {
            Job::Read { offset, len } => self.copy(image, request, offset, len),
            Job::Write { offset, len } => self.copy(image, request, offset, len),
            Job::Flush => Self::flush(image, request),
            Job::Discard { .. } | Job::Zero { .. } => Self::call(image, request),
        }
    }

    fn copy(&self, image: &Arc<Image>, request: Request, offset: u64, len: u64) -> Result<Begun, Request> {
        let before = self.faults.now();
        let at = offset as usize;
        let copied = match request.job() {
            Job::Read { .. } => request.scatter(&self.window, at),
            _ => request.gather(&self.window, at),
        };
        if !self.faults.hit(before, at, len as usize) {
            let result = if copied { Ok(()) } else { Err(Failure::Memory) };
            return Ok(Begun::Ended(request, result));
        }
        Self::call(image, request)
    }

    /// Makes the call here where the image is memory: nothing of it waits. Else a helper does.
    fn call(image: &Arc<Image>, request: Request) -> Result<Begun, Request> {
        if !image.in_memory() {
            return Err(request);
        }
        let mut task = match Task::new(image, request, Vec::new()) {
            Ok(task) => task,
            Err(request) => return Ok(Begun::Full(request)),
        };
        let result = helpers::run(&mut task);
        Ok(match task.into_parts().0 {
            Some(request) => Begun::Ended(request, result),
            None => Begun::UnderWay,
        })
    }

    fn flush(image: &Arc<Image>, request: Request) -> Result<Begun, Request> {
        if !image.in_memory() {
            return Err(request);
        }
        // Memory has no write-back that could fail.
        Ok(Begun::Ended(request, Ok(())))
    }
}
