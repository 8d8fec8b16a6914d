//! The connections to the primary. A statement that succeeded leaves its connection on a shelf, and the next takes the one
//! that was used last: the server's process has everything at hand then, and nothing is asked of it in between. All else
//! comes from a pool, which tries a connection that it does not trust before it gives it out.

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The lease, the wait, and builds.
const CONNECTIONS: u32 = 12;
/// Of these, so many lie on the shelf at most.
const SHELF: usize = 4;
/// A connection that was idle for longer is tried before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long a connection may take.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A pool and its shelf.
#[derive(Debug)]
pub(super) struct Connections {
    /// For transactions.
    pub pool: PgPool,
    shelf: Mutex<Vec<(PoolConnection<Postgres>, Instant)>>,
}

/// A connection for one statement. Unless it is kept, the pool gets it back and tries it.
pub(super) struct Lent {
    connection: PoolConnection<Postgres>,
    from: Arc<Connections>,
}

impl Connections {
    /// Prepares connections; none is opened yet.
    pub(super) fn new(options: PgConnectOptions) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_WITHIN)
            .test_before_acquire(false)
            .before_acquire(|connection, used| {
                Box::pin(async move {
                    Ok(used.idle_for < TRUSTED_FOR || connection.ping().await.is_ok())
                })
            });
        Self {
            pool: pool.connect_lazy_with(options),
            shelf: Mutex::default(),
        }
    }

    /// Closes every connection, those that are in use once they are given back.
    pub(super) fn close(self: Arc<Self>) {
        tokio::spawn(async move {
            // To be closed is a matter of the call, and from then on nothing comes to lie on the shelf.
            let closing = self.pool.close();
            self.shelf().clear();
            closing.await;
        });
    }

    fn shelf(&self) -> MutexGuard<'_, Vec<(PoolConnection<Postgres>, Instant)>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a connection.
    pub(super) async fn lend(self: &Arc<Self>) -> sqlx::Result<Lent> {
        let last = {
            let mut shelf = self.shelf();
            shelf.retain(|(_, since)| since.elapsed() < TRUSTED_FOR);
            shelf.pop()
        };
        let connection = match last {
            Some((connection, _)) => connection,
            None => Box::pin(self.pool.acquire()).await?,
        };
        let from = self.clone();
        Ok(Lent { connection, from })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // To give them back takes a runtime, and there may be none any more.
        for (connection, _) in self.shelf().drain(..) {
            drop(connection.leak());
        }
    }
}

impl Lent {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The statement succeeded and its answer was read to the end: the next one may have the connection as it is.
    pub(super) fn keep(self) {
        let mut shelf = self.from.shelf();
        if shelf.len() < SHELF && !self.from.pool.is_closed() {
            shelf.push((self.connection, Instant::now()));
        }
    }
}
