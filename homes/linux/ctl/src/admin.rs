//! What the operator asks: `nvme-ctl rescan` and `nvme-ctl resume`.

use crate::failure::Failure;
use crate::server::{self, Place};

/// Sends one request, and prints its answer.
pub(crate) fn ask(place: &Place, what: &str, about: Option<&str>) -> Result<(), Failure> {
    let mut admin = server::factory(place)?;
    let words = std::iter::once(what).chain(about);
    let answer = admin.ask(words).map_err(|refusal| Failure::refused(what, &refusal))?;
    println!("{answer}");
    Ok(())
}
