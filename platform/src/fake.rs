//! Fakes that are stricter than the real thing: an IOMMU that faults on any address that is not mapped, a pool
//! that counts, a client that counts how often it was told.
