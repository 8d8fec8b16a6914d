//! Which transactions had ended when something was read. Pure.

/// A snapshot of Postgres, as it writes one: `xmin:xmax:xip,..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    text: String,
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|x| !x.is_empty());
        Some(Self {
            text: text.to_owned(),
            xmin,
            xmax,
            running: running.map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }

    /// As Postgres writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first transaction that had not begun.
    pub fn end(&self) -> u64 {
        self.xmax
    }

    /// Whether a transaction had ended.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }

    /// Whether every transaction up to this one had ended.
    pub fn is_past(&self, xid: u64) -> bool {
        xid < self.xmin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot = Snapshot::parse("10:20:10,14").expect("a snapshot");
        let seen: Vec<u64> = (8..22).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert!(snapshot.is_past(9) && !snapshot.is_past(10));
        assert!(Snapshot::parse("10:20:").is_some() && Snapshot::parse("10:x:").is_none());
    }
}
