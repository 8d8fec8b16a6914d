//! Every block of a page, in its order, in a world of the page's own.
//!
//! Would catch a page whose commands have gone, ask for something else than they say, or print something else.

use super::page::{Page, Run};
use super::stage::Stage;
use crate::files::names;
use std::collections::BTreeSet;
use std::process::Output;
use system_tests::Result;

/// The pages, and how many blocks each has at least: a fence that is mistyped is a block that nobody runs.
const PAGES: [(&str, usize); 11] = [
    ("README.md", 5),
    ("docs/comparison.md", 0),
    ("docs/concepts.md", 4),
    ("docs/consistency-and-failure.md", 4),
    ("docs/defining-contexts.md", 4),
    ("docs/dynamodb.md", 0),
    ("docs/operating.md", 7),
    ("docs/reading-from-any-language.md", 8),
    ("docs/security.md", 3),
    ("docs/tuning.md", 4),
    ("docs/when-not-to-use.md", 0),
];

/// Whether a line of a page is a line of the output: it begins with what is before the first `...`, ends with what is behind the
/// last, and has the rest in between, in order. Spaces count as one.
fn is_line(shown: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (words(line), words(shown));
    let parts: Vec<&str> = shown.split("...").map(str::trim).collect();
    let [first, between @ .., last] = &parts[..] else {
        return line == shown;
    };
    let Some(mut rest) = line
        .strip_prefix(first)
        .and_then(|rest| rest.strip_suffix(last))
    else {
        return false;
    };
    for part in between {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    true
}

/// What is wrong with what a block did.
fn wrong(run: &Run, output: &Output) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let said = format!("{stdout}{stderr}");
    if output.status.code() != Some(run.code) {
        return Some(format!(
            "exit code {:?}, not {}:\n{said}",
            output.status.code(),
            run.code
        ));
    }
    let mut lines = stdout.lines().chain(stderr.lines());
    for shown in &run.shown {
        if !lines.any(|line| is_line(shown, line)) {
            return Some(format!(
                "it does not print, or not in this order: {shown}\nbut:\n{said}"
            ));
        }
    }
    None
}

async fn holds(path: &str) -> Result<()> {
    let runs = Page::read(path)?.runs()?;
    let least = PAGES.iter().find(|(page, _)| *page == path);
    let least = least.ok_or("the page is not in the list")?.1;
    assert!(
        runs.len() >= least,
        "{path} has {} blocks that are run, not {least}",
        runs.len()
    );
    let mut stage = Stage::new().await?;
    for run in &runs {
        let output = stage.run(run).await?;
        if let Some(wrong) = wrong(run, &output) {
            panic!("{path}:{}: {wrong}\nthe hub:\n{}", run.line, stage.log());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_the_readme_work() -> Result<()> {
    holds("README.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_concepts_work() -> Result<()> {
    holds("docs/concepts.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_consistency_and_failure_work() -> Result<()> {
    holds("docs/consistency-and-failure.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_defining_contexts_work() -> Result<()> {
    holds("docs/defining-contexts.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_operating_work() -> Result<()> {
    holds("docs/operating.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_reading_from_any_language_work() -> Result<()> {
    holds("docs/reading-from-any-language.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_security_work() -> Result<()> {
    holds("docs/security.md").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocks_of_tuning_work() -> Result<()> {
    holds("docs/tuning.md").await
}

#[test]
fn every_page_is_in_the_list_and_runs_its_blocks() -> Result<()> {
    let listed = PAGES
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("docs/")?.strip_suffix(".md"));
    let listed: BTreeSet<String> = listed.map(ToOwned::to_owned).collect();
    assert_eq!(names("docs", ".md")?, listed);
    // Those without a test above have nothing to run.
    for (path, least) in PAGES.iter().filter(|(_, least)| *least == 0) {
        assert_eq!(Page::read(path)?.runs()?.len(), *least, "{path}");
    }
    Ok(())
}

#[test]
fn a_line_of_a_page_is_told_from_another_one() {
    assert!(is_line("eu-west-1  43 contexts", "eu-west-1 43 contexts"));
    assert!(is_line(
        "eu-west-1 ... contexts",
        "eu-west-1 http://127.0.0.1:1 43 contexts"
    ));
    assert!(is_line("... in step ...", "eu-west-1 in step 3"));
    assert!(!is_line("eu-west-1", "eu-west-1 43"));
    assert!(!is_line("west", "eu-west"));
    assert!(!is_line("a ... b ... a", "a b"));
}
