//! The client's memory: files, regions of them at guest addresses, and an allocator to lay things out in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_linux::clientmem::map_shared;
use nvme_mem::Window;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::message::RegionWords;
use crate::{Error, Result};

/// One region: a part of a file at a guest address.
#[derive(Debug)]
pub struct Region {
    /// What a message says about it. The client address is the mapping's, unless somebody changes it.
    pub words: RegionWords,
    /// Which of the memory's files it lies in.
    pub file: usize,
    /// The bytes.
    pub window: Window,
    next: u64,
}

/// Files and the regions in them. Nothing here checks what a server should: regions may overlap, if asked for.
#[derive(Debug, Default)]
pub struct Memory {
    /// The files, in the order of [`Memory::add_file`].
    pub files: Vec<OwnedFd>,
    /// The regions, in the order of [`Memory::add_region`].
    pub regions: Vec<Region>,
}

/// A memfd of `len` bytes.
pub fn memfd(len: u64, sealable: bool) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | if sealable { MemfdFlags::ALLOW_SEALING } else { MemfdFlags::empty() };
    let file = memfd_create("client", flags)?;
    ftruncate(&file, len)?;
    Ok(file)
}

impl Memory {
    /// No memory at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// One memfd with one region over all of it, at guest address `guest`.
    pub fn flat(guest: u64, len: u64) -> Result<Self> {
        let mut memory = Self::new();
        let file = memory.add_file(memfd(len, false)?);
        memory.add_region(file, 0, guest, len)?;
        Ok(memory)
    }

    /// Takes a file and says its index.
    pub fn add_file(&mut self, file: OwnedFd) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// Maps `len` bytes at `offset` of a file as a region at guest address `guest`; says its index.
    pub fn add_region(&mut self, file: usize, offset: u64, guest: u64, len: u64) -> Result<usize> {
        let window = map_shared(self.file(file)?, offset, len as usize)?;
        let words = RegionWords { guest, size: len, user: window.address() as u64, offset };
        self.regions.push(Region { words, file, window, next: 0 });
        Ok(self.regions.len() - 1)
    }

    /// One of the files.
    pub fn file(&self, index: usize) -> Result<BorrowedFd<'_>> {
        self.files.get(index).map(AsFd::as_fd).ok_or(Error::Full("no such file"))
    }

    /// Lays out `len` bytes (a multiple-of-`align` guest address) in region `region`; never given back.
    pub fn alloc_in(&mut self, region: usize, len: u64, align: u64) -> Result<u64> {
        let region = self.regions.get_mut(region).ok_or(Error::Full("no such region"))?;
        let start = (region.words.guest + region.next).next_multiple_of(align);
        let next = start - region.words.guest + len;
        if next > region.words.size {
            return Err(Error::Full("client memory"));
        }
        region.next = next;
        Ok(start)
    }

    /// As [`Memory::alloc_in`], in the first region.
    pub fn alloc(&mut self, len: u64, align: u64) -> Result<u64> {
        self.alloc_in(0, len, align)
    }

    fn find(&self, guest: u64, len: u64) -> Result<(&Region, u64)> {
        self.regions
            .iter()
            .find_map(|r| {
                let at = guest.checked_sub(r.words.guest)?;
                (at <= r.words.size && len <= r.words.size - at).then_some((r, at))
            })
            .ok_or(Error::Address(guest, len))
    }

    /// The bytes at a guest address; they must lie in one region.
    pub fn window(&self, guest: u64, len: u64) -> Result<Window> {
        let (region, at) = self.find(guest, len)?;
        Ok(region.window.sub(at as usize, len as usize)?)
    }

    /// The client address of a guest address.
    pub fn user(&self, guest: u64) -> Result<u64> {
        let (region, at) = self.find(guest, 0)?;
        Ok(region.words.user.wrapping_add(at))
    }

    /// Copies bytes to a guest address.
    pub fn write(&self, guest: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.window(guest, bytes.len() as u64)?.write(0, bytes)?)
    }

    /// Copies bytes from a guest address.
    pub fn read(&self, guest: u64, into: &mut [u8]) -> Result<()> {
        Ok(self.window(guest, into.len() as u64)?.read(0, into)?)
    }

    /// A copy of `len` bytes at a guest address.
    pub fn bytes(&self, guest: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(guest, &mut bytes)?;
        Ok(bytes)
    }
}
