//! The few requests that are needed. Structures and constants are those of `vfio-bindings`.
#![expect(unsafe_code, reason = "ioctls take pointers")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn request(number: u32) -> u32 {
    (vfio::VFIO_TYPE as u32) << 8 | (vfio::VFIO_BASE + number)
}

pub(super) const GET_API_VERSION: u32 = request(0);
pub(super) const CHECK_EXTENSION: u32 = request(1);
pub(super) const SET_IOMMU: u32 = request(2);
const GROUP_GET_STATUS: u32 = request(3);
const GROUP_SET_CONTAINER: u32 = request(4);
const GROUP_GET_DEVICE_FD: u32 = request(6);
pub(super) const DEVICE_GET_INFO: u32 = request(7);
pub(super) const DEVICE_GET_REGION_INFO: u32 = request(8);
pub(super) const DEVICE_GET_IRQ_INFO: u32 = request(9);
const DEVICE_SET_IRQS: u32 = request(10);
const DEVICE_RESET: u32 = request(11);
pub(super) const IOMMU_GET_INFO: u32 = request(12);
const IOMMU_MAP_DMA: u32 = request(13);
const IOMMU_UNMAP_DMA: u32 = request(14);

/// Longest answer with capabilities that is believed, in bytes.
const ANSWER_MAX: usize = 1 << 16;

/// The requests that are made while serving: mapping, resets, and the mask of a pin.
pub fn serving() -> Vec<u32> {
    vec![IOMMU_MAP_DMA, IOMMU_UNMAP_DMA, DEVICE_RESET, DEVICE_SET_IRQS]
}

fn checked(result: libc::c_int) -> Result<u32, Errno> {
    u32::try_from(result)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// A request whose argument is a number.
pub(super) fn plain(fd: impl AsFd, request: u32, argument: u32) -> Result<u32, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: callers pass requests that take a number, or nothing.
    checked(unsafe { libc::ioctl(fd, request.into(), libc::c_ulong::from(argument)) })
}

/// A request whose argument is a structure that begins with its own length (`argsz`).
///
/// # Safety
/// `argument` must be what the request takes: the kernel reads and writes as many bytes as its `argsz` says, at most.
unsafe fn with<T>(fd: impl AsFd, request: u32, argument: *mut T) -> Result<u32, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the caller's.
    checked(unsafe { libc::ioctl(fd, request.into(), argument) })
}

/// A request that answers with a structure of `fixed` bytes and perhaps capabilities after it. `words` are the 32-bit words
/// that follow `argsz`.
pub(super) fn ask(fd: impl AsFd, request: u32, fixed: usize, words: &[u32]) -> Result<Vec<u8>, Errno> {
    let fd = fd.as_fd();
    let mut len = fixed;
    // The second time with the length that the first answer asks for.
    for _ in 0..2 {
        let mut bytes = vec![0; len];
        let argsz = u32::try_from(len).map_err(|_| Errno::INVAL)?;
        for (to, word) in bytes.chunks_exact_mut(4).zip([argsz].iter().chain(words)) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        // SAFETY: the buffer is as long as its first word says.
        unsafe { with(fd, request, bytes.as_mut_ptr()) }?;
        let wanted = super::info::u32_at(&bytes, 0).map_or(0, |wanted| wanted as usize);
        if wanted <= len || wanted > ANSWER_MAX {
            return Ok(bytes);
        }
        len = wanted;
    }
    Err(Errno::AGAIN)
}

/// Whether all devices of the group are in VFIO's hands.
pub(super) fn group_viable(group: impl AsFd) -> Result<bool, Errno> {
    let mut status = vfio::vfio_group_status { argsz: 8, flags: 0 };
    // SAFETY: the request's structure, with its length.
    unsafe { with(group, GROUP_GET_STATUS, &raw mut status) }?;
    Ok(status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE != 0)
}

pub(super) fn set_container(group: impl AsFd, container: impl AsFd) -> Result<(), Errno> {
    let mut fd = container.as_fd().as_raw_fd();
    // SAFETY: the request reads one descriptor number.
    unsafe { with(group, GROUP_SET_CONTAINER, &raw mut fd) }.map(drop)
}

/// Opens the device of that name (its PCI address).
pub(super) fn device(group: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: the request reads a string that ends with a zero byte.
    let fd = unsafe { with(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut()) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a new descriptor, which nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Resets the function.
pub(super) fn reset(device: impl AsFd) -> Result<(), Errno> {
    plain(device, DEVICE_RESET, 0).map(drop)
}

/// VFIO_DEVICE_SET_IRQS from vector 0. What it returns above zero is how many vectors there could have been.
pub(super) fn set_irqs(
    device: impl AsFd,
    index: u32,
    flags: u32,
    count: u32,
    events: &[BorrowedFd<'_>],
) -> Result<u32, Errno> {
    let argsz = u32::try_from(20 + 4 * events.len()).map_err(|_| Errno::INVAL)?;
    let mut words = vec![argsz, flags, index, 0, count];
    words.extend(events.iter().map(|event| event.as_raw_fd().cast_unsigned()));
    // SAFETY: `words` is as long as its first word says.
    unsafe { with(device, DEVICE_SET_IRQS, words.as_mut_ptr()) }
}

/// Lets the IOMMU's devices reach `len` bytes of this process at `address`.
pub(super) fn map_dma(
    container: impl AsFd,
    address: usize,
    iova: u64,
    len: u64,
    writable: bool,
) -> Result<(), Errno> {
    let write = if writable { vfio::VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
    let mut map = vfio::vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio::vfio_iommu_type1_dma_map>() as u32,
        flags: vfio::VFIO_DMA_MAP_FLAG_READ | write,
        vaddr: address as u64,
        iova,
        size: len,
    };
    // SAFETY: the request's structure, with its length. What is mapped is a window's memory, which is never a reference.
    unsafe { with(container, IOMMU_MAP_DMA, &raw mut map) }.map(drop)
}

/// Takes away all mappings that lie in the range. Returns how many bytes were mapped there.
pub(super) fn unmap_dma(container: impl AsFd, iova: u64, len: u64) -> Result<u64, Errno> {
    let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
        argsz: size_of::<vfio::vfio_iommu_type1_dma_unmap>() as u32,
        flags: 0,
        iova,
        size: len,
        ..Default::default()
    };
    // SAFETY: the request's structure, with its length; nothing follows it without a flag that says so.
    unsafe { with(container, IOMMU_UNMAP_DMA, &raw mut unmap) }?;
    Ok(unmap.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        // linux/vfio.h, as `strace` names them.
        assert_eq!((GET_API_VERSION, DEVICE_GET_INFO, IOMMU_UNMAP_DMA), (0x3b64, 0x3b6b, 0x3b72));
    }

    #[test]
    fn what_is_no_vfio_descriptor_refuses() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(group_viable(&null), Err(Errno::NOTTY));
        assert_eq!(map_dma(&null, 0, 0, 4096, true), Err(Errno::NOTTY));
        assert_eq!(ask(&null, IOMMU_GET_INFO, 24, &[]).err(), Some(Errno::NOTTY));
        assert_eq!(device(&null, "a\0b").err(), Some(Errno::INVAL));
    }
}
