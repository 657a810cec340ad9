//! What reads files, without the files: for fuzz targets.

use crate::roster::Roster;

/// The roster that a `roster.json` holds.
///
/// # Errors
/// What is wrong with it.
pub fn kept_roster(text: &str) -> Result<Roster, String> {
    crate::kept::parse(text)
}
