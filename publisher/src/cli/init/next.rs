//! What to type after `init`: commands that work as they are printed, one after the other, in a shell of any sort.
//!
//! They must never show a value that looks secret, or the address of the database.

use super::{DATABASE, Files, LOCAL};
use crate::draft::Context;
use crate::draft::columns::First;
use crate::draft::example::{Example, ExampleKey};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write;
use std::path::Path;

/// What a path cannot have as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What is known of the set-up.
pub(super) struct Tried<'a> {
    pub files: &'a Files,
    pub first: &'a First,
    pub contexts: &'a [Context],
    /// A row to try it with.
    pub example: Option<(&'a Context, Example)>,
    pub is_config_default: bool,
    pub is_database_set: bool,
}

impl Tried<'_> {
    /// All that is to be said.
    pub(super) fn lines(&self) -> String {
        let mut out = String::from(
            "\nthe tables can be published; the region and the publisher come next. Type:\n",
        );
        let config = match self.is_config_default {
            true => String::new(),
            false => format!(" --config {}", path(&self.files.config)),
        };
        if !self.is_database_set {
            line(
                &mut out,
                &format!("export {DATABASE}=...      with the address that you gave"),
            );
        }
        line(
            &mut out,
            &format!("spoke-agent run --config {} &", path(&self.files.agent)),
        );
        line(&mut out, &format!("publisher migrate{config}"));
        line(&mut out, &format!("publisher run{config} &"));
        line(&mut out, &format!("publisher scan{config}"));
        out += "`migrate` makes the schema hubcast and change triggers; `scan` returns when the region has everything.\n";
        match &self.example {
            Some((context, example)) => self.row(&mut out, context, example, &config),
            None => self.no_row(&mut out),
        }
        self.indexes(&mut out);
        for note in self.contexts.iter().flat_map(Context::notes) {
            let _ = writeln!(out, "note: {note}");
        }
        let _ = write!(
            out,
            "the console is http://127.0.0.1:7400, its token is in {}",
            self.files.api_token.display()
        );
        if self.first.region.as_str() == LOCAL && !self.first.is_named {
            out += "\nregion \"local\" is a name to begin with; each further region is a [[spoke]] and an agent there";
        }
        out
    }

    /// A change of a row, on its way and back.
    fn row(&self, out: &mut String, context: &Context, example: &Example, config: &str) {
        let kind = &context.kind;
        // What begins with a hyphen would be a flag.
        let (key, is_variable) = match &example.key {
            ExampleKey::Shown(key) if key.starts_with('-') => (format!("-- {}", shell(key)), false),
            ExampleKey::Shown(key) => (shell(key), false),
            ExampleKey::AskFor(_) => ("-- \"$key\"".to_owned(), true),
        };
        let _ = writeln!(out, "then read a row of {} in the region:", context.table);
        if let ExampleKey::AskFor(find) = &example.key {
            line(
                out,
                &format!("key=$(psql \"${DATABASE}\" -qAt -c {})", shell(find)),
            );
        }
        let get = format!(
            "spoke-agent --config {} get {kind} {key}",
            path(&self.files.agent)
        );
        line(out, &get);
        if let ExampleKey::Shown(key) = &example.key {
            let key = utf8_percent_encode(key, ENCODED);
            line(
                out,
                &format!("curl -i http://127.0.0.1:7521/v1/contexts/{kind}/{key}"),
            );
        }
        let Some((there, back)) = &example.change else {
            let _ = writeln!(
                out,
                "and change it, and read it again. `publisher tail{config}` shows what goes out."
            );
            return;
        };
        out.push_str("change it, ask whether every region has that, and read it again:\n");
        line(out, &format!("publisher tail{config} &"));
        let token = path(&self.files.api_token);
        line(out, &format!("export HUBCAST_API_TOKEN=$(cat {token})"));
        let all = format!("BEGIN; {there}; SELECT hubcast.token(); COMMIT");
        line(
            out,
            &format!("token=$({})", typed(&all, "-qAt ", is_variable)),
        );
        line(
            out,
            "curl -s -H \"Authorization: Bearer $HUBCAST_API_TOKEN\" \"http://127.0.0.1:7400/v1/visible?token=$token&timeout=10s\"",
        );
        line(out, &get);
        out.push_str("and take it back:\n");
        line(out, &typed(back, "", is_variable));
    }

    fn no_row(&self, out: &mut String) {
        let Some(context) = self.contexts.first() else {
            return;
        };
        let _ = writeln!(
            out,
            "no row of {} is anybody's here yet: insert one, and read it in the region by its key:",
            context.table
        );
        let agent = path(&self.files.agent);
        line(
            out,
            &format!("spoke-agent --config {agent} get {} KEY", context.kind),
        );
    }

    fn indexes(&self, out: &mut String) {
        let mut all: Vec<String> = Vec::new();
        for index in self.contexts.iter().flat_map(Context::missing_indexes) {
            if !all.contains(&index) {
                all.push(index);
            }
        }
        if all.is_empty() {
            return;
        }
        out.push_str("without an index a build of one tenant reads a table whole; when tables are large, make:\n");
        for index in all {
            line(out, &format!("psql \"${DATABASE}\" -c {}", shell(&index)));
        }
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "  {text}");
}

/// A statement for psql, which takes variables only from what it reads.
fn typed(sql: &str, flags: &str, is_variable: bool) -> String {
    match is_variable && sql.contains(":'key'") {
        true => format!(
            "echo {} | psql \"${DATABASE}\" {flags}-v key=\"$key\"",
            shell(sql)
        ),
        false => format!("psql \"${DATABASE}\" {flags}-c {}", shell(sql)),
    }
}

fn path(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => shell(&text),
    }
}

/// One word for a shell: as it is, in double quotes where they mean nothing else, or in single ones.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    match text {
        _ if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) => {
            text.to_owned()
        }
        // An exclamation mark is the history of an interactive shell.
        _ if !text.contains(['"', '$', '`', '\\', '!']) => format!("\"{text}\""),
        _ => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Would catch a word that a shell reads otherwise.
    #[test]
    fn a_word_is_for_a_shell_what_it_was() {
        for word in [
            "plain",
            "a b",
            "$HOME",
            "`id`",
            "it's",
            "\"",
            "\\",
            "!x",
            "",
            "*",
            "a;b",
            "it's \"$HOME\"",
        ] {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell(word))])
                .output()
                .expect("a shell");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                word,
                "{}",
                shell(word)
            );
            // Where it is interactive, only single quotes keep its history away.
            assert!(
                !word.contains('!') || shell(word).starts_with('\''),
                "{word}"
            );
        }
    }

    #[test]
    fn a_path_is_a_word_too() {
        assert_eq!(path(Path::new("agent-local.toml")), "agent-local.toml");
        assert_eq!(path(Path::new("my folder/a")), "\"my folder/a\"");
        assert_eq!(path(Path::new("~/a")), "\"~/a\"");
    }
}
