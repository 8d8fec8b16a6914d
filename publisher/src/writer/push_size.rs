//! How large a push is that carries no urgent change. Pure. The larger it is, the cheaper is a context of it, and the longer
//! waits an urgent change that comes meanwhile.

use super::Millis;

/// Bytes of a push that carries no urgent change: learnt from how long the last one took.
#[derive(Debug)]
pub struct PushSize {
    bytes: usize,
    fast: Millis,
    slow: Millis,
}

impl PushSize {
    const FIRST: usize = 1 << 20;
    const LEAST: usize = 64 << 10;

    /// For a store that was in step: an urgent change waits for such a push at most once.
    pub fn of_bulk() -> Self {
        Self {
            bytes: Self::FIRST,
            fast: 50,
            slow: 200,
        }
    }

    /// For a store that a scan fills: it is not in step before all of it is there, and large commits are cheaper.
    pub fn of_fill() -> Self {
        Self {
            bytes: Self::FIRST,
            fast: 250,
            slow: 1_000,
        }
    }

    /// The next push may have so many bytes, of `most` that any may have.
    pub fn bytes(&self, most: usize) -> usize {
        self.bytes.min(most)
    }

    /// A push took so long.
    pub fn took(&mut self, ms: Millis, most: usize) {
        if ms < self.fast {
            self.bytes = (self.bytes * 2).min(most);
        } else if ms > self.slow {
            self.bytes = (self.bytes / 2).max(Self::LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes to which it comes where each MiB takes so many milliseconds.
    fn settled(mut size: PushSize, per_mib: usize) -> usize {
        const MOST: usize = 8 << 20;
        for _ in 0..20 {
            let ms = (size.bytes(MOST) * per_mib) >> 20;
            size.took(ms as Millis, MOST);
        }
        size.bytes(MOST)
    }

    #[test]
    fn it_settles_where_a_push_takes_as_long_as_it_may() {
        assert_eq!(settled(PushSize::of_bulk(), 1), 8 << 20);
        assert_eq!(settled(PushSize::of_bulk(), 100), 1 << 20);
        assert_eq!(settled(PushSize::of_bulk(), 700), 256 << 10);
        assert_eq!(settled(PushSize::of_bulk(), 1_000_000), 64 << 10);
        assert_eq!(settled(PushSize::of_fill(), 100), 4 << 20);
        assert_eq!(settled(PushSize::of_fill(), 700), 1 << 20);
    }
}
