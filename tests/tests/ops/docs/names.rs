//! What the pages name: commands, flags, keys, metrics, paths, alerts, files and places.
//!
//! Would catch a page that speaks of a flag which has another name by now, and a link that leads nowhere.

use super::page::Page;
use crate::files::{metrics, names, read, root};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::collections::BTreeSet;
use std::path::Path;
use system_tests::Result;

/// README and `docs`.
fn pages() -> Result<Vec<Page>> {
    let of_docs = names("docs", ".md")?
        .into_iter()
        .map(|name| format!("docs/{name}.md"));
    let all = std::iter::once("README.md".to_owned()).chain(of_docs);
    all.map(|path| Page::read(&path)).collect()
}

/// Code of a page: what stands between backticks, and the lines of shell blocks without their prompt.
fn code(page: &Page) -> Vec<String> {
    let lines = page.lines_of(&["sh", "console"]);
    let lines = lines.map(|l| l.trim().trim_start_matches("$ ").to_owned());
    page.spans.iter().cloned().chain(lines).collect()
}

/// The calls of our programs in a piece of code: the words of each, up to whatever ends a command.
fn calls(code: &str) -> Vec<Vec<String>> {
    let mut calls: Vec<Vec<String>> = Vec::new();
    let mut is_open = false;
    let spaced = code.replace([';', '(', ')'], " ; ");
    for word in spaced.split_whitespace().take_while(|word| *word != "#") {
        let is_program = word == "publisher" || word == "spoke-agent";
        if is_program && !is_open {
            calls.push(vec![word.to_owned()]);
            is_open = true;
        } else if ["|", ";", "&&", "||", "&"].contains(&word) || word.contains('>') {
            is_open = false;
        } else if let Some(call) = calls.last_mut().filter(|_| is_open) {
            call.push(word.to_owned());
        }
    }
    calls.retain(|call| call.len() > 1);
    calls
}

/// Every long flag of a command and of those below it.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|a| a.get_long());
    let mut all: BTreeSet<String> = own.map(|name| format!("--{name}")).collect();
    all.extend(command.get_subcommands().flat_map(flags));
    all.extend(["--help".to_owned(), "--version".to_owned()]);
    all
}

/// Why a call cannot be right. One that says what may stand there (`[--region R]`) is only looked at for its flags.
fn refused(call: &[String]) -> Option<String> {
    let is_ours = call.first().is_some_and(|program| program == "publisher");
    let command = match is_ours {
        true => publisher::cli::Cli::command(),
        false => spoke_agent::cli::Cli::command(),
    };
    let plain = |word: &String| {
        !word.contains(['[', ']', '|', '{', '$', '\'', '"']) && !word.contains("..")
    };
    if call.iter().all(plain) {
        let parsed = match is_ours {
            true => publisher::cli::Cli::try_parse_from(call).err(),
            false => spoke_agent::cli::Cli::try_parse_from(call).err(),
        };
        // One that is only mentioned lacks what it would be about, or has a word in capitals in its place.
        let stands_for =
            |word: &String| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
        let is_outline = |e: &clap::Error| match e.kind() {
            ErrorKind::MissingRequiredArgument => true,
            ErrorKind::InvalidValue => call.iter().any(stands_for),
            _ => false,
        };
        let parsed = parsed.filter(|e| !is_outline(e));
        return parsed.map(|e| e.to_string());
    }
    let known = flags(&command);
    let flag = |word: &String| {
        let word = word.trim_matches(|c| "[],\"'".contains(c));
        let word = word.split('=').next().unwrap_or_default().to_owned();
        (word.starts_with("--") && word.len() > 2).then_some(word)
    };
    let strange = call
        .iter()
        .filter_map(flag)
        .find(|flag| !known.contains(flag));
    strange.map(|flag| format!("{flag} is no flag"))
}

#[test]
fn every_command_and_flag_of_a_page_is_there() -> Result<()> {
    let (mut wrong, mut found) = (Vec::new(), 0);
    let mut known = flags(&publisher::cli::Cli::command());
    known.extend(flags(&spoke_agent::cli::Cli::command()));
    for script in ["quickstart", "test", "bench"] {
        let text = read(&format!("ops/{script}"))?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        known.extend(words.filter(|w| w.starts_with("--")).map(ToOwned::to_owned));
    }
    let bench = read("tests/src/bin/bench/main.rs")?;
    for page in pages()? {
        for code in code(&page) {
            for call in calls(&code) {
                found += 1;
                let why = refused(&call);
                wrong.extend(why.map(|why| format!("{}: `{}`: {why}", page.path, call.join(" "))));
            }
            let flag = code.split([' ', '=']).next().unwrap_or_default();
            let is_flag = flag.starts_with("--") && flag.len() > 2 && !flag.ends_with("--");
            if is_flag
                && !known.contains(flag)
                && !bench.contains(&flag.trim_matches('-').replace('-', "_"))
            {
                wrong.push(format!("{}: {flag}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 80, "only {found} calls were found");
    Ok(())
}

#[test]
fn every_metric_and_alert_of_a_page_is_there() -> Result<()> {
    let families = publisher::metrics::FAMILIES.iter().map(|(name, ..)| *name);
    let families = families.chain(
        spoke_agent::metrics::FAMILIES
            .iter()
            .map(|(name, ..)| *name),
    );
    let known: BTreeSet<&str> = families.collect();
    let alerts = names("ops/runbooks", ".md")?;
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in pages()? {
        let text = read(&page.path)?;
        for name in metrics(&text) {
            found += 1;
            let endings = ["_count", "_sum", "_bucket", ""];
            let is_there = endings
                .iter()
                .any(|e| name.strip_suffix(e).is_some_and(|n| known.contains(n)));
            // `hubcast_agent_*` is a group.
            if !is_there && !name.ends_with('_') {
                wrong.push(format!("{}: {name}", page.path));
            }
        }
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let named = words.filter(|w| w.starts_with("Hubcast") && w.len() > "Hubcast".len());
        wrong.extend(
            named
                .filter(|w| !alerts.contains(*w))
                .map(|w| format!("{}: {w}", page.path)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 10, "only {found} metrics were found");
    Ok(())
}

/// What stands between quotes in a source.
fn quoted(path: &str) -> Result<BTreeSet<String>> {
    let text = read(path)?;
    Ok(text
        .split('"')
        .skip(1)
        .step_by(2)
        .map(ToOwned::to_owned)
        .collect())
}

#[test]
fn every_key_of_a_page_is_there() -> Result<()> {
    let mut known = quoted("publisher/src/config/keys.rs")?;
    known.extend(quoted("spoke-agent/src/config/authorize.rs")?);
    known.extend(spoke_agent::config::KEYS.iter().map(|&key| key.to_owned()));
    let (mut wrong, mut found) = (Vec::new(), 0);
    let mut look = |page: &Page, key: &str| {
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        found += usize::from(is_key);
        if is_key && !known.contains(key) {
            wrong.push(format!("{}: {key}", page.path));
        }
    };
    for page in pages()? {
        let mut is_query = false;
        for line in page.lines_of(&["toml"]) {
            let was_query = is_query;
            is_query ^= line.matches("\"\"\"").count() % 2 == 1;
            let line = line.trim_start().trim_start_matches("# ");
            if let Some((key, _)) = line.split_once('=').filter(|_| !was_query) {
                look(&page, key.trim());
            }
            for (_, pair) in line
                .match_indices("{ ")
                .map(|(at, _)| line.split_at(at + 2))
            {
                look(&page, pair.split('=').next().unwrap_or_default().trim());
            }
        }
        for span in &page.spans {
            let Some((table, key)) = span.split_once('.') else {
                continue;
            };
            if ["hub", "spoke", "context"].contains(&table) {
                look(&page, key.split([' ', '=']).next().unwrap_or_default());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 60, "only {found} keys were found");
    Ok(())
}

/// Whether a path that a page names is one of a route; `...` and words in capitals or braces stand for anything.
fn answers(route: &str, path: &str) -> bool {
    let route: Vec<&str> = route.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    route.len() == path.len()
        && route
            .iter()
            .zip(&path)
            .all(|(r, p)| r == p || r.starts_with('{'))
}

#[test]
fn every_path_of_a_page_is_there() -> Result<()> {
    let mut routes: BTreeSet<String> = spoke_agent::serve::ROUTES
        .iter()
        .map(|r| r.path.to_owned())
        .collect();
    for source in [
        "publisher/src/api.rs",
        "publisher/src/console.rs",
        "spoke-agent/src/receive.rs",
    ] {
        routes.extend(
            quoted(source)?
                .into_iter()
                .filter(|text| text.starts_with('/')),
        );
    }
    let (mut wrong, mut found) = (Vec::new(), 0);
    for page in pages()? {
        let text = read(&page.path)?;
        for start in ["/v1/", "/push/v1/", "/readyz", "/healthz", "/metrics"] {
            for (at, _) in text.match_indices(start) {
                let before = text[..at].chars().next_back();
                let is_inside =
                    before.is_some_and(|c| c == '/' || (c.is_alphabetic() && start != "/v1/"));
                let end = |c: char| !c.is_ascii_alphanumeric() && !"/-_.{}%$".contains(c);
                let path = text[at..]
                    .split(end)
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches(['.', '/']);
                // `/push/v1/` is looked at by itself, and `/v1/` alone speaks of all of them.
                if is_inside || text[..at].ends_with("/push") || path == "/v1" || path == "/push/v1"
                {
                    continue;
                }
                found += 1;
                if !routes.iter().any(|route| answers(route, path)) {
                    wrong.push(format!("{}: {path}", page.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 40, "only {found} paths were found");
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let (mut wrong, mut found) = (Vec::new(), 0);
    let others = ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(Page::read);
    for page in pages()?.into_iter().map(Ok).chain(others) {
        let page = page?;
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            found += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file.is_empty() {
                true => page.path.clone(),
                false => folder.join(file).display().to_string(),
            };
            if !root().join(&target).exists() {
                wrong.push(format!("{}: {link} is not there", page.path));
            } else if !anchor.is_empty() && !Page::read(&target)?.anchors.contains(anchor) {
                wrong.push(format!("{}: {link} has no such heading", page.path));
            }
        }
        // Files of the repository that are only named.
        for span in page
            .spans
            .iter()
            .filter(|span| span.starts_with("ops/") && !span.contains([' ', '*']))
        {
            // `ops/decisions/0008` is the one that begins so.
            let (folder, name) = span
                .trim_end_matches('/')
                .rsplit_once('/')
                .unwrap_or_default();
            let begins = |found: &String| found.starts_with(name);
            if !names(folder, "").is_ok_and(|all| all.iter().any(begins)) {
                wrong.push(format!("{}: {span} is not there", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 20, "only {found} links were found");
    Ok(())
}
