//! How Postgres numbers transactions, and what its snapshots say of them.

use std::collections::BTreeSet;

/// The numbers of one server.
#[derive(Debug, Clone)]
pub struct Xids {
    next: u64,
    /// The highest number that has ended.
    completed: u64,
    /// The highest number of which a crash leaves a trace: aborted ones are not always on disk.
    durable: u64,
    running: BTreeSet<u64>,
}

/// A snapshot. A transaction that runs and has a number at or above `xmax` is not in `xip`, and not seen either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgSnapshot {
    xmin: u64,
    xmax: u64,
    xip: Vec<u64>,
}

impl Xids {
    /// A server on which something has happened already.
    pub fn new() -> Self {
        Self {
            next: 700,
            completed: 699,
            durable: 699,
            running: BTreeSet::new(),
        }
    }

    /// A transaction writes for the first time.
    pub fn begin(&mut self) -> u64 {
        let xid = self.next;
        self.next += 1;
        self.running.insert(xid);
        xid
    }

    /// A transaction was rolled back.
    pub fn abort(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.completed = self.completed.max(xid);
    }

    /// A transaction was committed.
    pub fn commit(&mut self, xid: u64) {
        self.abort(xid);
        self.durable = self.durable.max(xid);
    }

    /// A transaction that is over at once.
    pub fn once(&mut self) -> u64 {
        let xid = self.begin();
        self.commit(xid);
        xid
    }

    /// The server starts again: only prepared transactions go on, and numbers of which nothing was written to disk are
    /// given out again.
    pub fn restart(&mut self, prepared: BTreeSet<u64>) {
        let last = prepared.last().copied().unwrap_or_default();
        self.running = prepared;
        self.completed = self.durable.max(last);
        self.next = self.completed + 1;
    }

    /// Whether a restart would give out a number again of which snapshots say that it has ended.
    pub fn is_ahead(&self) -> bool {
        self.completed > self.durable
    }

    /// What has ended now.
    pub fn snapshot(&self) -> PgSnapshot {
        let xmax = self.completed + 1;
        let xip: Vec<u64> = self.running.range(..xmax).copied().collect();
        PgSnapshot {
            xmin: xip.first().copied().unwrap_or(xmax),
            xmax,
            xip,
        }
    }
}

impl PgSnapshot {
    /// As Postgres writes it.
    pub fn text(&self) -> String {
        let xip: Vec<String> = self.xip.iter().map(ToString::to_string).collect();
        format!("{}:{}:{}", self.xmin, self.xmax, xip.join(","))
    }

    /// Reads one.
    pub fn parse(text: &str) -> Self {
        let number = |text: &str| text.parse().expect("a number");
        let parts: Vec<&str> = text.split(':').collect();
        let xip = parts[2].split(',').filter(|x| !x.is_empty());
        Self {
            xmin: number(parts[0]),
            xmax: number(parts[1]),
            xip: xip.map(number).collect(),
        }
    }

    /// Whether a number is lower than that of the last transaction that had ended.
    pub fn is_over(&self, xid: u64) -> bool {
        xid < self.xmax
    }

    /// `pg_visible_in_snapshot`.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && !self.xip.contains(&xid)
    }
}
