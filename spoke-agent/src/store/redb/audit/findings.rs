//! What a survey found, as people are told it.

use super::survey;
use super::{Fix, StoreError};
use contexts::digest::DigestKey;
use redb::ReadTransaction;
use serde::Serialize;
use std::borrow::Cow;

/// One thing that is wrong. What is not known of it is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What is wrong.
    pub wrong: Cow<'static, str>,
}

impl Finding {
    /// About the file as a whole.
    pub fn of_file(wrong: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: None,
            key: None,
            tenant: None,
            wrong: wrong.into(),
        }
    }

    fn named(name: Option<(&[u8], &[u8])>, tenant: Option<&[u8]>, wrong: &'static str) -> Self {
        // A name that is damaged is no text.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            kind: name.map(|(kind, _)| text(kind)),
            key: name.map(|(_, key)| text(key)),
            tenant: tenant.map(text),
            wrong: wrong.into(),
        }
    }
}

/// All that is wrong with the rows of a snapshot. Nothing is changed.
///
/// # Errors
/// If redb fails.
pub fn findings(txn: &ReadTransaction, key: &DigestKey) -> Result<Vec<Finding>, StoreError> {
    let mut found = Vec::new();
    let survey = survey::look(txn, key, &mut |tenant, kind, key| {
        let name = (kind.as_str().as_bytes(), key.as_str().as_bytes());
        let tenant = tenant.as_str().as_bytes();
        let wrong = "the record disagrees with its hash";
        found.push(Finding::named(Some(name), Some(tenant), wrong));
    })?;
    found.extend(survey.fixes.iter().map(|(what, fix)| of_fix(what, fix)));
    Ok(found)
}

fn of_fix(what: &'static str, fix: &Fix) -> Finding {
    let wrong = match what {
        "owner_without_record" => "it has an owner and no record",
        "head_unreadable" => "the head of the tenant cannot be read",
        "record_unreadable" => "the name of the record cannot be read",
        "blind_entry_missing" => "the kind never came whole, and it is not noted",
        "head_disagrees_with_records" => "the head of the tenant disagrees with its records",
        "blind_entry_without_cause" => "it is noted that the kind never came whole, without cause",
        "record_without_head" => "the record is of a tenant that has no head",
        "record_of_another_owner" => "another tenant has this key too, and owns it",
        "record_without_owner" => "the record has no owner, or another one",
        other => other,
    };
    match fix {
        Fix::DropHead { tenant, .. } => Finding::named(None, Some(tenant), wrong),
        Fix::SetHead { tenant, .. } => {
            Finding::named(None, Some(tenant.as_str().as_bytes()), wrong)
        }
        Fix::DropRecord { tenant, name, .. } => {
            Finding::named(Some((&name.0, &name.1)), Some(tenant), wrong)
        }
        Fix::DropOwner { name } => Finding::named(Some((&name.0, &name.1)), None, wrong),
        Fix::SetOwner { name, owner } => {
            let tenant = owner.tenant.as_str().as_bytes();
            Finding::named(Some((&name.0, &name.1)), Some(tenant), wrong)
        }
        Fix::DropBlind { kind, tenant } | Fix::SetBlind { kind, tenant } => Finding {
            key: None,
            ..Finding::named(Some((kind, &[])), Some(tenant), wrong)
        },
    }
}
