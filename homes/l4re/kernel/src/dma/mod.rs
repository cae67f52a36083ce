//! Memory that controllers reach.
//!
//! * `chunks`: the parts in which a dataspace is mapped, and who uses them.
//! * `space`: one controller's view of its DMA domain, as the core's [`DmaSpace`](nvme_platform::DmaSpace).
//! * `pool`: the driver's own memory.
//!
//! A dataspace is mapped **once** in each domain, whatever sessions and ranges want of it: without an IOMMU, L4Re refuses a
//! second mapping of the same memory. So it is mapped in chunks that begin at multiples of [`chunk_size`](crate::chunk::chunk_size), each with a count
//! of users, and a region that the server registers must lie in one chunk.

mod chunks;
mod pool;
mod space;

pub(crate) use chunks::Chunks;
pub(crate) use pool::Pool;
pub(crate) use space::Space;
