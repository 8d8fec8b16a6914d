//! `spoke-agent verify`: the file of a stopped agent, checked record by record. It changes nothing, see
//! [`crate::store::redb::verify`].

use super::out::word;
use crate::config::FileConfig;
use crate::store::redb::audit::Finding;
use crate::store::redb::open::OpenError;
use crate::store::redb::verify::{Verified, verify};
use serde_json::json;

/// What is printed, and whether the file is sound.
#[derive(Debug)]
pub struct Printed {
    /// To stdout.
    pub out: String,
    /// Whether nothing is wrong.
    pub sound: bool,
}

/// Looks at the file.
///
/// # Errors
/// [`OpenError`] if there is nothing to look at.
pub fn run(file: &FileConfig, json: bool) -> Result<Printed, OpenError> {
    let look = || verify(&file.data, file.region.as_ref(), file.cache_bytes);
    let verified = despite_panics(file, look)?;
    let out = match json {
        true => document(&verified),
        false => for_people(&verified),
    };
    Ok(Printed {
        out,
        sound: verified.findings.is_empty(),
    })
}

/// redb gives up on some damage with a panic, which must not hide that it is the file that is bad.
pub(super) fn despite_panics<T: Send>(
    file: &FileConfig,
    look: impl FnOnce() -> Result<T, OpenError> + Send,
) -> Result<T, OpenError> {
    // What it says is in the line that is printed.
    std::panic::set_hook(Box::new(|_| {}));
    let looked = std::thread::scope(|scope| scope.spawn(look).join());
    drop(std::panic::take_hook());
    looked.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        let (path, why) = (file.data.clone(), text.unwrap_or("redb gives it up").into());
        Err(OpenError::Damaged { path, why })
    })
}

fn document(verified: &Verified) -> String {
    json!({
        "contexts": verified.contexts,
        "bundles": verified.bundles,
        "redo_log": { "commits": verified.logged, "missing": verified.is_log_missing },
        "sound": verified.findings.is_empty(),
        "findings": verified.findings,
    })
    .to_string()
}

fn for_people(verified: &Verified) -> String {
    let mut lines: Vec<String> = verified.findings.iter().map(line).collect();
    if verified.is_log_missing {
        lines.push(
            "the redo log that belongs to the file is not beside it; the last pushes may be missing"
                .into(),
        );
    }
    let count = verified.findings.len();
    lines.push(format!(
        "{} contexts of {} tenants, {} commits of them from the redo log; {}",
        verified.contexts,
        verified.bundles,
        verified.logged,
        match count {
            0 => "nothing is wrong".to_owned(),
            1 => "1 thing is wrong; an agent mends what it can at its start, and the next scan of the hub the rest"
                .to_owned(),
            _ => format!(
                "{count} things are wrong; an agent mends what it can at its start, and the next scan of the hub the rest"
            ),
        }
    ));
    lines.join("\n")
}

/// Kind, key, tenant and what is wrong.
fn line(finding: &Finding) -> String {
    let name = |name: &Option<String>| name.as_deref().map_or("-".to_owned(), word);
    let (kind, key, tenant) = (
        name(&finding.kind),
        name(&finding.key),
        name(&finding.tenant),
    );
    format!("{kind}\t{key}\t{tenant}\t{}", finding.wrong)
}
