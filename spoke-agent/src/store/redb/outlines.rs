//! What the writer remembers of very large tenants between commits, so that a delta of some values is as quick as it is small:
//! [`contexts::apply::Outline`]. An outline is used only where the head has its digest, so what a commit that failed left here
//! is of no use and no harm. After an audit of the file nothing here is believed.

use contexts::apply::Outline;
use contexts::name::TenantId;
use std::collections::BTreeMap;

/// Bytes of outlines; the tenant that changed the longest time ago is forgotten first.
const BYTES_MAX: usize = 16 << 20;

/// The outlines, by when they were remembered.
#[derive(Debug, Default)]
pub struct Outlines {
    by_age: BTreeMap<u64, (TenantId, Outline)>,
    bytes: usize,
    next: u64,
}

impl Outlines {
    /// Takes that of a tenant out.
    pub fn take(&mut self, tenant: &TenantId) -> Option<Outline> {
        let (age, _) = self.by_age.iter().find(|(_, (owner, _))| owner == tenant)?;
        let age = *age;
        self.remove(age)
    }

    /// Remembers that of a tenant instead of the one that there was.
    pub fn put(&mut self, tenant: &TenantId, outline: Outline) {
        self.take(tenant);
        self.bytes += outline.bytes();
        self.next += 1;
        self.by_age.insert(self.next, (tenant.clone(), outline));
        while self.bytes > BYTES_MAX
            && let Some((oldest, _)) = self.by_age.first_key_value()
        {
            self.remove(*oldest);
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, age: u64) -> Option<Outline> {
        let (_, outline) = self.by_age.remove(&age)?;
        self.bytes -= outline.bytes();
        Some(outline)
    }
}
