//! Random ids: of the store file, of a run of the process, of a session. They come from the operating system; two of
//! them never meet.

/// A random id, never zero.
///
/// # Errors
/// Only if the operating system has no randomness to give.
pub fn id() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes).max(1))
}
