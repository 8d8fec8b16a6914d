//! Ids that nobody draws twice.

use crate::client::TableError;

/// A random id.
///
/// # Errors
/// If the operating system has no randomness: without it nothing is safe to go on.
pub(crate) fn id() -> Result<u128, TableError> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| TableError::Rejected(format!("no randomness: {error}")))?;
    Ok(u128::from_le_bytes(bytes))
}
