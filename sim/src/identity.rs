//! What controllers say that they are: two of one subsystem that share a namespace; one that is another after a reset.

use crate::world::{CONTROLLERS, SHARED, World};

/// What Identify is asked for, and where in its data is what.
const NAMESPACE: u8 = 0;
const CONTROLLER: u8 = 1;
const NMIC: usize = 30;
const EUI64: usize = 120;
const SERIAL: usize = 4;
const CMIC: usize = 76;
const CNTLID: usize = 78;
const SUBNQN: usize = 768;

impl World {
    /// Nothing is wrong with a controller any more, nor with what is behind any. What it says that it is stays.
    pub(crate) fn heal(&mut self, at: usize) {
        if let Some(faults) = self.machines[at].handle.faults() {
            faults.clear();
        }
        self.identify(at);
        self.storages.iter().for_each(|storage| storage.heal());
    }

    /// Has a controller say what it is.
    pub(crate) fn identify(&self, at: usize) {
        let Some(faults) = self.machines[at].handle.faults() else { return };
        if self.setup.shared {
            faults.lie_in_identify(Box::new(move |asked, nsid, data| match asked {
                NAMESPACE if nsid == SHARED.0 => {
                    data[NMIC] = 1;
                    data[EUI64..EUI64 + 8].fill(9);
                }
                CONTROLLER => {
                    data[SERIAL..SERIAL + 4].copy_from_slice(b"one ");
                    data[SUBNQN..SUBNQN + 28].copy_from_slice(b"nqn.2014-08.org.example:one\0");
                    data[CMIC] = 2;
                    data[CNTLID] = at as u8 + 1;
                }
                _ => {}
            }));
        }
        if self.machines[at].another {
            faults.lie_in_identify(Box::new(move |asked, _, data| {
                if asked == CONTROLLER {
                    data[SERIAL..SERIAL + 4].copy_from_slice(b"two ");
                }
            }));
        }
    }

    /// A controller fails, and is another when it is reset.
    pub(crate) fn becomes_another(&mut self, at: usize) {
        self.machines[at].another = true;
        self.identify(at);
        self.court().buses[at].becomes_another = true;
        self.machines[at].handle.raise_fatal();
    }

    /// A name as the server knows it: controllers of one subsystem are named by their places.
    pub(crate) fn spelled(&self, words: &[&str]) -> Vec<String> {
        let place = |word: &str| {
            let mut word = word.to_owned();
            for at in (0..CONTROLLERS).filter(|_| self.setup.shared) {
                word = word.replace(&format!("device=d{at}:"), &format!("device=pci:0000:{at:02x}:00.0:"));
            }
            word
        };
        words.iter().map(|word| place(word)).collect()
    }
}
