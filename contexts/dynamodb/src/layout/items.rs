//! Heads and keys.

use super::fields::{Fields, bytes, encode, number, text};
use super::{BadItem, Build, Item, Place, STAGED, TOMBSTONE_SECONDS, TTL};
use aws_sdk_dynamodb::types::AttributeValue;
use contexts::apply::{Head, Name, Owner, Record};
use contexts::bundle::Context;
use contexts::digest::{Digest, DigestKey};
use contexts::name::TenantId;
use contexts::version::Version;
use std::collections::BTreeSet;

/// Where the names of a tenant's records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// It has no records.
    Nowhere,
    /// On so many pages, under the id of this build.
    Paged(Build, u16),
}

/// A head as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHead {
    /// The tenant.
    pub tenant: TenantId,
    /// The build that wrote it: the next write asks that it still stands here.
    pub build: Build,
    /// What the rules know of it; of a tenant that was removed, only the version counts.
    pub head: Head,
    /// Whether the tenant was removed.
    pub is_gone: bool,
    /// Where the names of its records are.
    pub names: Names,
    /// What its records add up to, by [`part_of_sum`].
    pub sum: u64,
}

/// The digest of a head that is not to be believed: no bundle has it, so the hub sends the tenant, and that is written
/// over it.
pub const IN_DOUBT: Digest = Digest([0xff; 16]);

/// What a record adds to the sum of its tenant.
pub fn part_of_sum(record: &Record) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = record.hash.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl StoredHead {
    /// As an item; `now` is the service's clock in seconds, for the end of a tombstone.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn to_item(&self, key: &DigestKey, now: u64) -> Result<Item, BadItem> {
        let place = Place::head(key, &self.tenant);
        let mut item = place.to_key();
        item.insert("build".into(), self.build.to_attribute());
        let head = (&self.head, self.sum.to_be_bytes());
        item.insert("head".into(), encode(&place.sk, &head)?);
        if let Names::Paged(build, count) = &self.names {
            let paged = (build.0.to_be_bytes(), count);
            item.insert("names".into(), encode(&place.sk, &paged)?);
        }
        if self.is_gone {
            item.insert("gone".into(), AttributeValue::Bool(true));
            item.insert(TTL.into(), number(now + TOMBSTONE_SECONDS));
        }
        Ok(item)
    }

    /// From an item.
    ///
    /// # Errors
    /// [`BadItem`] if it is damaged.
    pub fn of(item: &Item) -> Result<Self, BadItem> {
        let fields = Fields::of(item)?;
        let (head, sum): (Head, [u8; 8]) = fields.decode("head")?;
        Ok(Self {
            tenant: tenant_of(&fields)?,
            build: Build(fields.id("build")?),
            head,
            is_gone: item.contains_key("gone"),
            names: names_where(&fields)?,
            sum: u64::from_be_bytes(sum),
        })
    }

    /// What is left of one that is damaged: in doubt, with its build and where its names are as far as that can be read.
    ///
    /// # Errors
    /// [`BadItem`] if it is not in the place of a head.
    pub fn remains(item: &Item) -> Result<Self, BadItem> {
        let fields = Fields::of(item)?;
        let head = Head {
            version: Version::default(),
            digest: IN_DOUBT,
            contexts: 0,
            held: Vec::new(),
            held_kinds: Vec::new(),
        };
        Ok(Self {
            tenant: tenant_of(&fields)?,
            build: fields.id("build").map_or(Build::UNREADABLE, Build),
            head,
            is_gone: item.contains_key("gone"),
            names: names_where(&fields).unwrap_or(Names::Nowhere),
            sum: 0,
        })
    }

    /// Whether it is not to be believed.
    pub fn is_in_doubt(&self) -> bool {
        self.head.digest == IN_DOUBT
    }
}

fn tenant_of(fields: &Fields<'_>) -> Result<TenantId, BadItem> {
    let tenant = fields.place.sk.split_once('#').map(|(_, tenant)| tenant);
    let tenant = tenant.and_then(|tenant| TenantId::new(tenant).ok());
    tenant.ok_or_else(|| fields.bad("it names no tenant"))
}

fn names_where(fields: &Fields<'_>) -> Result<Names, BadItem> {
    let paged: Option<([u8; 16], u16)> = fields.optional("names", Fields::decode)?;
    Ok(paged.map_or(Names::Nowhere, |(build, count)| {
        Names::Paged(Build(u128::from_be_bytes(build)), count)
    }))
}

/// A key as the table has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredContext {
    /// The build that wrote it.
    pub build: Build,
    /// The version of that build.
    pub version: Version,
    /// Who has it.
    pub owner: Owner,
    /// The value, if it has one.
    pub record: Option<Record>,
}

impl StoredContext {
    /// As an item in its place.
    pub fn to_item(&self, name: &Name, sk: &str) -> Item {
        let mut item = Place::context(name, sk).to_key();
        let mut put = |name: &str, value| item.insert(name.to_owned(), value);
        put("build", self.build.to_attribute());
        put("epoch", number(self.version.epoch));
        put("n", number(self.version.n));
        put("tenant", text(self.owner.tenant.as_str()));
        if !self.owner.waiting.is_empty() {
            let waiting = self.owner.waiting.iter().map(|t| text(t.as_str()));
            put("waiting", AttributeValue::L(waiting.collect()));
        }
        if let Some(Record { context, hash }) = &self.record {
            put("value", text(&context.value));
            put("hash", bytes(hash.0));
            if let Some(expires) = context.expires {
                put("expires", AttributeValue::N(expires.to_string()));
            }
        }
        item
    }

    /// From an item of this name.
    ///
    /// # Errors
    /// [`BadItem`] if it is damaged.
    pub fn of(name: &Name, item: &Item) -> Result<Self, BadItem> {
        let fields = Fields::of(item)?;
        let waiting = match item.get("waiting") {
            None => BTreeSet::new(),
            Some(AttributeValue::L(list)) => {
                let tenant = |value: &AttributeValue| match value {
                    AttributeValue::S(text) => TenantId::new(text).ok(),
                    _ => None,
                };
                let all: Option<_> = list.iter().map(tenant).collect();
                all.ok_or_else(|| fields.bad("waiting names something that is no tenant"))?
            }
            Some(_) => return Err(fields.bad("waiting is no list")),
        };
        let value = fields.optional("value", Fields::text)?;
        let record = value.map(|value| {
            let hash = Digest(fields.id("hash")?.to_be_bytes());
            let context = Context {
                kind: name.0.clone(),
                key: name.1.clone(),
                value: value.into(),
                expires: fields.optional("expires", Fields::integer)?,
            };
            Ok::<_, BadItem>(Record { context, hash })
        });
        let record = record.transpose()?;
        let tenant = TenantId::new(fields.text("tenant")?);
        Ok(Self {
            build: Build(fields.id("build")?),
            version: Version {
                epoch: fields.integer("epoch")?,
                n: fields.integer("n")?,
            },
            owner: Owner {
                tenant: tenant.map_err(|bad| fields.bad(bad.to_string()))?,
                has_value: record.is_some(),
                waiting,
            },
            record,
        })
    }
}

/// What a build under way will make of a key, as an item; `by` is a tenant whose head will name the build.
pub fn staged(name: &Name, build: Build, by: &TenantId, stored: Option<&StoredContext>) -> Item {
    let mut item = match stored {
        Some(stored) => stored.to_item(name, STAGED),
        None => Place::context(name, STAGED).to_key(),
    };
    item.insert("build".into(), build.to_attribute());
    item.insert("by".into(), text(by.as_str()));
    if stored.is_none() {
        item.insert("gone".into(), AttributeValue::Bool(true));
    }
    item
}

/// What decides whether a staged item counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The build.
    pub build: Build,
    /// The item counts if the head of this tenant names the build.
    pub by: TenantId,
    /// Whether it says that nobody has the key.
    pub is_gone: bool,
}

/// What decides whether a staged item counts.
///
/// # Errors
/// [`BadItem`] if it is damaged.
pub fn staged_of(item: &Item) -> Result<Staged, BadItem> {
    let fields = Fields::of(item)?;
    let by = TenantId::new(fields.text("by")?);
    Ok(Staged {
        build: Build(fields.id("build")?),
        by: by.map_err(|bad| fields.bad(bad.to_string()))?,
        is_gone: item.contains_key("gone"),
    })
}
