//! Lists that may be longer than an item: the names of a large tenant, and what a large build touches.

use super::fields::{Fields, encode};
use super::{BadItem, Build, Item, PAGE_BYTES, Place};
use contexts::apply::Name;
use contexts::name::TenantId;

/// The names on a page.
///
/// # Errors
/// [`BadItem`] if it is damaged.
pub fn names_of(item: &Item) -> Result<Vec<Name>, BadItem> {
    Fields::of(item)?.decode("names")
}

/// A page with names.
///
/// # Errors
/// If they cannot be encoded.
pub fn page(place: &Place, names: &[Name]) -> Result<Item, BadItem> {
    let mut item = place.to_key();
    item.insert("names".into(), encode(&place.sk, &names)?);
    Ok(item)
}

/// Splits names so that each part fits on a page.
pub fn paginate(names: &[Name]) -> Vec<&[Name]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, name) in names.iter().enumerate() {
        let weight = weight_of(name);
        if bytes + weight > PAGE_BYTES {
            parts.push(&names[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += weight;
    }
    if begin < names.len() {
        parts.push(&names[begin..]);
    }
    parts
}

/// Bytes of a name on a page.
pub fn weight_of((kind, key): &Name) -> usize {
    kind.as_str().len() + key.as_str().len() + 4
}

/// The entry of a large build in the journal.
///
/// # Errors
/// If it cannot be encoded.
pub fn journal(build: Build, tenants: &[TenantId]) -> Result<Item, BadItem> {
    let place = Place::journal(build);
    let mut item = place.to_key();
    item.insert("tenants".into(), encode(&place.sk, &tenants)?);
    Ok(item)
}

/// The tenants of an entry in the journal.
///
/// # Errors
/// [`BadItem`] if it is damaged.
pub fn tenants_of(item: &Item) -> Result<Vec<TenantId>, BadItem> {
    Fields::of(item)?.decode("tenants")
}
