//! What the operator asks: `nvme-ctl rescan` and `nvme-ctl resume`.

use rustix::io::Errno;

use crate::failure::Failure;
use crate::server::{self, Place};

/// The status of what was refused.
const REFUSED: u8 = 3;

/// Sends one request, and prints its answer.
pub(crate) fn ask(place: &Place, what: &str, about: Option<&str>) -> Result<(), Failure> {
    let mut admin = server::factory(place)?;
    let words = std::iter::once(what).chain(about);
    let answer = admin.ask(words).map_err(|refusal| {
        let status = match Errno::from_raw_os_error(refusal.errno) {
            Errno::NOENT | Errno::INVAL => REFUSED,
            _ => 1,
        };
        Failure { text: format!("{what}: {refusal}"), status }
    })?;
    println!("{answer}");
    Ok(())
}
