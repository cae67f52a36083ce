//! The partition tables that there are: sectors with an MBR.

const KINDS: u64 = 4;

/// The partitions of a table: first sector and sectors, in a disk of so many.
fn parts(which: u64) -> &'static [(u32, u32)] {
    match which % KINDS {
        // Two halves.
        0 => &[(64, 256), (320, 256)],
        // Others, across the border between those.
        1 => &[(64, 384), (448, 128)],
        // One that overlaps itself.
        2 => &[(64, 256), (256, 256)],
        _ => &[(64, 512)],
    }
}

/// The partitions of a table, where they are in sectors.
pub(crate) fn partition(which: u64, number: u32) -> Option<(u64, u64)> {
    let (first, len) = parts(which).get((number as usize).checked_sub(1)?)?;
    Some((u64::from(*first), u64::from(*len)))
}

/// Writes a table into a sector.
pub(crate) fn write(which: u64, sector: &mut [u8]) {
    sector.fill(0);
    sector[440..444].copy_from_slice(&(0x5151_0000 + which as u32).to_le_bytes());
    for (i, (first, len)) in parts(which).iter().enumerate() {
        let at = 446 + 16 * i;
        sector[at + 4] = 0x83;
        sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// Which table it is.
pub(crate) fn which(sector: &[u8]) -> Option<u64> {
    let mut word = [0; 4];
    word.copy_from_slice(sector.get(440..444)?);
    let which = u64::from(u32::from_le_bytes(word).checked_sub(0x5151_0000)?);
    let mut own = [0; 512];
    write(which, &mut own);
    (own[..] == *sector).then_some(which)
}
