//! A defmt frame in the making. Each home has a logger of its own, which says where frames go; how they are made is here.

/// The longest frame, encoded, in bytes.
const LONGEST: usize = 512;

/// An encoder, and the frame that it is making.
pub struct Frame {
    encoder: defmt::Encoder,
    bytes: [u8; LONGEST],
    length: usize,
    too_long: bool,
    /// How many times the logger is acquired: a value's `Format` could itself log.
    depth: u32,
}

/// What the end of a trace point came to.
pub enum Ended<'a> {
    /// A whole frame, encoded.
    Whole(&'a [u8]),
    /// Its frame was too long, and is dropped.
    TooLong,
    /// It was made within another, and is no frame.
    Inner,
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    /// An encoder without a frame.
    pub const fn new() -> Self {
        Self { encoder: defmt::Encoder::new(), bytes: [0; LONGEST], length: 0, too_long: false, depth: 0 }
    }

    fn put(bytes: &mut [u8; LONGEST], length: &mut usize, too_long: &mut bool, more: &[u8]) {
        match bytes.get_mut(*length..*length + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                *length += more.len();
            }
            None => *too_long = true,
        }
    }

    /// A trace point begins.
    pub fn begin(&mut self) {
        self.depth += 1;
        if self.depth > 1 {
            return;
        }
        (self.length, self.too_long) = (0, false);
        let Self { encoder, bytes, length, too_long, .. } = self;
        encoder.start_frame(|more| Self::put(bytes, length, too_long, more));
    }

    /// It says something.
    pub fn write(&mut self, data: &[u8]) {
        if self.depth == 1 {
            let Self { encoder, bytes, length, too_long, .. } = self;
            encoder.write(data, |more| Self::put(bytes, length, too_long, more));
        }
    }

    /// It ends.
    pub fn end(&mut self) -> Ended<'_> {
        self.depth = self.depth.saturating_sub(1);
        if self.depth > 0 {
            return Ended::Inner;
        }
        let Self { encoder, bytes, length, too_long, .. } = self;
        encoder.end_frame(|more| Self::put(bytes, length, too_long, more));
        match self.bytes.get(..self.length) {
            Some(whole) if !self.too_long => Ended::Whole(whole),
            _ => Ended::TooLong,
        }
    }
}
