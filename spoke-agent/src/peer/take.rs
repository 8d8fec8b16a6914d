//! Fills an empty store from a peer.

use super::{Copy, FORM, FORMAT_IS, Facts, Part, PeerError, decode};
use crate::client::{self, chain};
use crate::clock::{Clock, wall_micros};
use crate::store::fresh::Fresh;
use crate::store::redb::changes;
use crate::store::redb::db::{Db, Write};
use crate::store::redb::meta::{FORMAT, Meta};
use crate::store::redb::tables::Tables;
use contexts::name::Region;
use contexts::push::encode;
use hubcast_tls::client::ClientFiles;
use reqwest::{Client, ClientBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How long to wait for the next piece.
const SILENT: Duration = Duration::from_secs(5);
/// Rows of one transaction.
pub(super) const ROWS: usize = 50_000;
/// Longest part: a value of any size that a push can carry, and its names.
pub(super) const PART: usize = 600 << 20;

/// What a client that asks for copies begins with.
pub fn client_builder() -> ClientBuilder {
    let builder = client::builder();
    builder.connect_timeout(CONNECT).read_timeout(SILENT)
}

/// Where to ask, and as whom.
pub struct Peers {
    addresses: Vec<String>,
    token: SecretString,
    region: Region,
    client: Client,
}

impl Peers {
    /// These agents of this region.
    ///
    /// # Errors
    /// If there is no HTTP client.
    pub fn new(
        addresses: Vec<String>,
        tls: &ClientFiles,
        token: SecretString,
        region: Region,
    ) -> Result<Self, String> {
        // A certificate that cannot be used only means that there is nothing to ask.
        let client = hubcast_tls::client::client(tls, client_builder()).or_else(|error| {
            tracing::warn!(%error, "no peer can be asked with TLS");
            client_builder().build().map_err(|error| error.to_string())
        })?;
        Ok(Self::with(client, addresses, token, region))
    }

    /// The same with a client of the caller's.
    pub fn with(
        client: Client,
        addresses: Vec<String>,
        token: SecretString,
        region: Region,
    ) -> Self {
        Self {
            addresses,
            token,
            region,
            client,
        }
    }

    /// Whether there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Fills the store, which must be an empty one, from the first peer that can give. Returns what each of the others
    /// said if none can; the store is empty then, or has rows without facts, which the next check removes.
    ///
    /// # Errors
    /// As said.
    pub async fn fill(&self, db: &Db, mine: &Meta, clock: Clock) -> Result<(), Vec<String>> {
        let mut said = Vec::new();
        for address in &self.addresses {
            match self.fill_from(address, db, mine, clock).await {
                Ok(rows) => {
                    tracing::info!(
                        peer = address,
                        rows,
                        "the store was filled from another agent"
                    );
                    return Ok(());
                }
                Err(error) => said.push(format!("{address}: {error}")),
            }
        }
        Err(said)
    }

    async fn fill_from(
        &self,
        address: &str,
        db: &Db,
        mine: &Meta,
        clock: Clock,
    ) -> Result<u64, PeerError> {
        // What the peer says of its age was true after this.
        let asked = clock.reading();
        let (facts, mut parts) = self.ask(address).await?;
        begin(db)?;
        while !take_some(&mut parts, db).await? {}
        let fresh = facts.known.age.map(|age| Fresh::before(asked, age));
        // All but the first part and the last.
        let rows = parts.count.saturating_sub(2);
        // To take that over would end the asking, and another peer, or this one in a moment, may have all.
        if rows == 0 && facts.known.last_synced.is_none() {
            return Err(PeerError::Nothing);
        }
        end(db, &mine.taken_from(theirs(mine, *facts, fresh)), clock)?;
        Ok(rows)
    }

    /// Asks for a copy: the facts, and the rows as they arrive.
    pub(super) async fn ask(&self, address: &str) -> Result<(Box<Facts>, Parts), PeerError> {
        let unreachable = |error: reqwest::Error| PeerError::Unreachable(chain(&error));
        let region = self.region.clone();
        let body = encode(&Copy { region }).map_err(|e| PeerError::Nonsense(e.to_string()))?;
        let request = self
            .client
            .post(format!("{address}/push/v1/copy?{FORM}&{FORMAT_IS}{FORMAT}"))
            .body(body);
        let request = request.bearer_auth(self.token.expose_secret());
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        if status != 200 {
            let why = response.text().await.unwrap_or_default().trim().to_owned();
            return Err(PeerError::Refused { status, why });
        }
        let mut parts = Parts {
            response,
            unread: Vec::new(),
            count: 0,
        };
        match parts.next().await? {
            Some(Part::Facts(facts)) => Ok((facts, parts)),
            Some(Part::Begin(known)) => {
                tracing::info!(
                    peer = address,
                    "the other agent is of an older release and cannot say whether it lost anything to damage: no list \
                     of a tenant's contexts is said to be complete before the hub's next scan"
                );
                Ok((Box::new(Facts::from(*known)), parts))
            }
            _ => {
                let why = "it does not begin with its facts";
                Err(PeerError::Nonsense(why.into()))
            }
        }
    }
}

pub(super) fn theirs(mine: &Meta, facts: Facts, fresh: Option<Fresh>) -> Meta {
    let known = facts.known;
    Meta {
        digest_key: Some(known.digest_key),
        granted: Some(known.granted),
        released: known.released,
        last_synced: known.last_synced,
        synced_kinds: Arc::new(known.synced_kinds.into_iter().collect()),
        position: known.position,
        fresh,
        beat: known.beat,
        lost: facts.lost,
        ..mine.clone()
    }
}

/// Removes what an earlier copy left.
pub(super) fn begin(db: &Db) -> Result<(), PeerError> {
    let txn = db.write()?;
    let mut tables = Tables::open(&txn)?;
    tables.remove_contexts()?;
    drop(tables);
    Ok(txn.commit()?)
}

/// The last step: only from here on it counts.
pub(super) fn end(db: &Db, meta: &Meta, clock: Clock) -> Result<(), PeerError> {
    let txn = db.write()?;
    let mut tables = Tables::open(&txn)?;
    meta.save_whole(&mut tables, clock.reading(), wall_micros())?;
    changes::append_everything(&mut tables)?;
    drop(tables);
    Ok(txn.commit()?)
}

/// Writes some rows; whether they were the last ones.
async fn take_some(parts: &mut Parts, db: &Db) -> Result<bool, PeerError> {
    let mut some = Vec::with_capacity(ROWS);
    while some.len() < ROWS {
        match parts.next().await? {
            None => return Err(PeerError::Unreachable("it breaks off".into())),
            Some(Part::End(count)) if count + 1 == parts.count => {
                write(db.write()?, some)?;
                return Ok(true);
            }
            Some(Part::End(_)) => return Err(PeerError::Nonsense("rows are missing".into())),
            Some(part) => some.push(part),
        }
    }
    write(db.write()?, some)?;
    Ok(false)
}

pub(super) fn write(txn: Write<'_>, parts: Vec<Part>) -> Result<(), PeerError> {
    let mut tables = Tables::open(&txn)?;
    for part in parts {
        tables.put(part)?;
    }
    drop(tables);
    Ok(txn.commit()?)
}

impl Tables<'_> {
    fn put(&mut self, part: Part) -> Result<(), PeerError> {
        match part {
            Part::Blind(kind, tenant) => {
                self.blind.insert((&*kind, &*tenant), ()).map_err(storage)?;
            }
            Part::Head(bucket, tenant, head) => {
                self.bundles
                    .insert((bucket, &*tenant), &*head)
                    .map_err(storage)?;
            }
            Part::Context(tenant, kind, key, record) => {
                let place = (&*tenant, &*kind, &*key);
                self.contexts.insert(place, &*record).map_err(storage)?;
            }
            Part::Owner(kind, key, owner) => {
                self.owners
                    .insert((&*kind, &*key), &*owner)
                    .map_err(storage)?;
            }
            Part::Begin(_) | Part::Facts(_) | Part::End(_) => {
                return Err(PeerError::Nonsense("it begins twice".into()));
            }
        }
        Ok(())
    }
}

fn storage(error: redb::StorageError) -> PeerError {
    PeerError::Storage(error.into())
}

/// The parts as they arrive.
pub(super) struct Parts {
    response: Response,
    unread: Vec<u8>,
    pub(super) count: u64,
}

impl Parts {
    pub(super) async fn next(&mut self) -> Result<Option<Part>, PeerError> {
        let mut at = 0;
        loop {
            if let Some((length, rest)) = self.unread[at..].split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                if length > PART {
                    return Err(PeerError::Nonsense("a part that is too long".into()));
                }
                if let Some(bytes) = rest.get(..length) {
                    let part = decode(bytes).map_err(PeerError::Nonsense)?;
                    at += 4 + length;
                    self.unread.drain(..at);
                    self.count += 1;
                    return Ok(Some(part));
                }
            }
            at = 0;
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.unread.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(PeerError::Unreachable(chain(&error))),
            }
        }
    }
}
