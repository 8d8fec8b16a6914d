//! Every table of the file. The number at the end of a name is the version of its layout: a change of layout is a new
//! table and a migration, never other bytes under the old name.
//!
//! Keys are tuples of byte strings (all of them UTF-8 text), so that damage is an error and not a panic; redb orders
//! them field by field. Numbers in values are little-endian.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta-1` | name of a fact | postcard, see [`super::meta`] |
//! | `synced-1` | kind | nothing: the store was in step for the kind |
//! | `bundles-1` | bucket, tenant | postcard of [`contexts::apply::Head`] |
//! | `contexts-1` | tenant, kind, key | hash (16), expires (1 byte 0, or 1 and 8 bytes of microseconds), value |
//! | `owners-1` | kind, key | has value (1 byte 0 or 1), tenant |
//! | `blind-1` | kind, tenant | nothing: the store cannot say that a key of the kind does not exist |
//! | `changes-1` | number of a commit | postcard, see [`super::changes`] |

use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::StoreError;

/// A key of one byte string.
pub type One = &'static [u8];
/// A key of two byte strings.
pub type Two = (&'static [u8], &'static [u8]);
/// A key of three byte strings.
pub type Three = (&'static [u8], &'static [u8], &'static [u8]);
/// Bucket and tenant.
pub type BucketTenant = (u16, &'static [u8]);
/// A value of bytes.
pub type Bytes = &'static [u8];

/// Facts about the store.
pub const META: TableDefinition<'static, &'static str, Bytes> = TableDefinition::new("meta-1");
/// Kinds for which the store was in step.
pub const SYNCED: TableDefinition<'static, One, ()> = TableDefinition::new("synced-1");
/// The heads of the bundles.
pub const BUNDLES: TableDefinition<'static, BucketTenant, Bytes> =
    TableDefinition::new("bundles-1");
/// The records.
pub const CONTEXTS: TableDefinition<'static, Three, Bytes> = TableDefinition::new("contexts-1");
/// Who has which key.
pub const OWNERS: TableDefinition<'static, Two, Bytes> = TableDefinition::new("owners-1");
/// Kinds of tenants of which the store never had a whole bundle.
pub const BLIND: TableDefinition<'static, Two, ()> = TableDefinition::new("blind-1");
/// What each commit changed.
pub const CHANGES: TableDefinition<'static, u64, Bytes> = TableDefinition::new("changes-1");

/// All tables in one write transaction.
pub struct Tables<'txn> {
    /// [`META`]
    pub meta: Table<'txn, &'static str, Bytes>,
    /// [`SYNCED`]
    pub synced: Table<'txn, One, ()>,
    /// [`BUNDLES`]
    pub bundles: Table<'txn, BucketTenant, Bytes>,
    /// [`CONTEXTS`]
    pub contexts: Table<'txn, Three, Bytes>,
    /// [`OWNERS`]
    pub owners: Table<'txn, Two, Bytes>,
    /// [`BLIND`]
    pub blind: Table<'txn, Two, ()>,
    /// [`CHANGES`]
    pub changes: Table<'txn, u64, Bytes>,
}

impl<'txn> Tables<'txn> {
    /// Opens all tables, and creates those that are missing.
    ///
    /// # Errors
    /// If redb fails, or a table has another layout than its name says.
    pub fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: txn.open_table(META)?,
            synced: txn.open_table(SYNCED)?,
            bundles: txn.open_table(BUNDLES)?,
            contexts: txn.open_table(CONTEXTS)?,
            owners: txn.open_table(OWNERS)?,
            blind: txn.open_table(BLIND)?,
            changes: txn.open_table(CHANGES)?,
        })
    }

    /// Records and heads.
    ///
    /// # Errors
    /// If redb fails.
    pub fn counts(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.contexts.len()?, self.bundles.len()?))
    }
}

impl Tables<'_> {
    /// Removes all rows of contexts; the facts and the log of changes stay.
    ///
    /// # Errors
    /// If redb fails.
    pub fn remove_contexts(&mut self) -> Result<(), StoreError> {
        self.bundles.retain(|_, _| false)?;
        self.contexts.retain(|_, _| false)?;
        self.owners.retain(|_, _| false)?;
        self.blind.retain(|_, ()| false)?;
        Ok(())
    }

    /// Records and heads, as a snapshot has them.
    ///
    /// # Errors
    /// If redb fails.
    pub fn counts_of(txn: &ReadTransaction) -> Result<(u64, u64), StoreError> {
        let contexts = txn.open_table(CONTEXTS)?.len()?;
        Ok((contexts, txn.open_table(BUNDLES)?.len()?))
    }
}

/// Removes every table.
///
/// # Errors
/// If redb fails.
pub fn wipe(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.delete_table(META)?;
    txn.delete_table(SYNCED)?;
    txn.delete_table(BUNDLES)?;
    txn.delete_table(CONTEXTS)?;
    txn.delete_table(OWNERS)?;
    txn.delete_table(BLIND)?;
    txn.delete_table(CHANGES)?;
    Ok(())
}

/// Whether the store cannot say of a key of this kind that it does not exist.
///
/// # Errors
/// If redb fails.
pub fn is_blind(blind: &impl ReadableTable<Two, ()>, kind: &str) -> Result<bool, StoreError> {
    let nothing: &[u8] = &[];
    match blind.range((kind.as_bytes(), nothing)..)?.next() {
        None => Ok(false),
        Some(row) => Ok(row?.0.value().0 == kind.as_bytes()),
    }
}

/// The rows of one tenant in a [`CONTEXTS`] table, in order: kind, key, bytes.
///
/// # Errors
/// Whatever `each` says, or redb.
pub fn each_of_tenant<E: From<redb::StorageError>>(
    contexts: &impl ReadableTable<Three, Bytes>,
    tenant: &str,
    mut each: impl FnMut(&[u8], &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let nothing: &[u8] = &[];
    for row in contexts.range((tenant.as_bytes(), nothing, nothing)..)? {
        let (name, bytes) = row?;
        let (owner, kind, key) = name.value();
        if owner != tenant.as_bytes() {
            break;
        }
        each(kind, key, bytes.value())?;
    }
    Ok(())
}
