//! A page of Markdown, taken apart.
//!
//! A block that begins with ```` ```sh ```` is run. `exits N` behind it is the exit code that is right, if it is not 0. A block
//! ```` ```text ```` right below one is what it prints: each line has to be found, in order; `...` stands for anything. Whatever
//! is not to be run has another fence.

use crate::files;
use std::collections::BTreeSet;
use system_tests::Result;

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Where it is in the repository.
    pub path: String,
    /// Its fenced blocks, in order.
    pub fenced: Vec<Fenced>,
    /// What stands between backticks in the text.
    pub spans: Vec<String>,
    /// Where its links lead, as they are written.
    pub links: Vec<String>,
    /// Its headings, as GitHub calls them in links.
    pub anchors: BTreeSet<String>,
}

/// A fenced block.
#[derive(Debug, Default)]
pub struct Fenced {
    /// The line of its first fence.
    pub line: usize,
    /// What stands behind that.
    pub info: String,
    /// Its lines, without the indentation of the fence.
    pub lines: Vec<String>,
    /// Whether only empty lines are between it and the block before.
    pub follows: bool,
}

/// A block that is run.
#[derive(Debug)]
pub struct Run {
    /// Its line.
    pub line: usize,
    /// The script.
    pub script: String,
    /// The exit code that is right.
    pub code: i32,
    /// Lines of its output.
    pub shown: Vec<String>,
}

impl Page {
    /// Reads a page of the repository.
    pub fn read(path: &str) -> Result<Self> {
        let text = files::read(path)?;
        let mut page = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let mut open: Option<Fenced> = None;
        let (mut follows, mut prose) = (false, String::new());
        for (at, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    let info = info.trim().to_owned();
                    let (line, lines) = (at + 1, Vec::new());
                    open = Some(Fenced {
                        line,
                        info,
                        lines,
                        follows,
                    });
                }
                (Some(_), Some("")) => {
                    page.fenced.extend(open.take());
                    follows = true;
                }
                (Some(fenced), _) => {
                    let indent = text.lines().nth(fenced.line - 1).unwrap_or_default();
                    let indent = indent.len() - indent.trim_start().len();
                    let line = line.get(indent..).unwrap_or_else(|| line.trim_start());
                    fenced.lines.push(line.to_owned());
                }
                (None, None) => {
                    follows &= line.trim().is_empty();
                    if let Some(heading) = line.strip_prefix('#') {
                        page.anchors.insert(anchor(heading.trim_start_matches('#')));
                    }
                    prose.push_str(line.trim());
                    prose.push('\n');
                }
            }
        }
        if let Some(fenced) = open {
            return Err(format!("{path}:{}: the block has no end", fenced.line).into());
        }
        let spans = prose.split('`').skip(1).step_by(2);
        page.spans = spans.map(|s| s.replace('\n', " ")).collect();
        page.links = links(&prose);
        Ok(page)
    }

    /// The blocks that are run.
    pub fn runs(&self) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut is_run = false;
        for fenced in &self.fenced {
            let mut info = fenced.info.split_whitespace();
            let language = info.next();
            if language == Some("text") && fenced.follows && is_run {
                let shown = fenced.lines.iter().filter(|l| !l.trim().is_empty());
                if let Some(run) = runs.last_mut() {
                    run.shown = shown.cloned().collect();
                }
            }
            is_run = language == Some("sh");
            if is_run {
                let code = match (info.next(), info.next()) {
                    (None, _) => 0,
                    (Some("exits"), Some(code)) => code.parse()?,
                    _ => {
                        return Err(
                            format!("{}:{}: {}", self.path, fenced.line, fenced.info).into()
                        );
                    }
                };
                let (line, script, shown) = (fenced.line, fenced.lines.join("\n"), Vec::new());
                runs.push(Run {
                    line,
                    script,
                    code,
                    shown,
                });
            }
        }
        Ok(runs)
    }

    /// The lines of its blocks in these languages.
    pub fn lines_of<'a>(&'a self, languages: &'a [&str]) -> impl Iterator<Item = &'a String> {
        let of = |f: &&Fenced| {
            f.info
                .split_whitespace()
                .next()
                .is_some_and(|l| languages.contains(&l))
        };
        self.fenced.iter().filter(of).flat_map(|f| &f.lines)
    }
}

/// Where `[text](target)` leads.
fn links(prose: &str) -> Vec<String> {
    let targets = prose.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.map(ToOwned::to_owned).collect()
}

/// What GitHub calls a heading in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}
