//! What `init` prints is typed, line by line, and works.

use super::place::Place;
use crate::desk::expect;
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use system_tests::process::program;
use system_tests::{Result, postgres};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one line may take.
const WITHIN: Duration = Duration::from_secs(60);
const END: &str = "--- end of a line:";

/// A shell, with all that was started in it.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn new(place: &Place) -> Result<Self> {
        let ours = program("publisher")?;
        let ours = ours.parent().ok_or("the program is nowhere")?.to_owned();
        let before = std::env::var_os("PATH").unwrap_or_default();
        let mut path = vec![ours, postgres::find_bin()?];
        path.extend(std::env::split_paths(&before));
        let mut command = Command::new("bash");
        command
            .current_dir(place.dir.path())
            .process_group(0)
            .kill_on_drop(true);
        command
            .env("PATH", std::env::join_paths(path)?)
            .env("DATABASE_URL", &place.database);
        for name in ["HUBCAST_CONFIG", "HUBCAST_API_TOKEN", "HUBCAST_FAILPOINT"] {
            command.env_remove(name);
        }
        let errors = std::fs::File::create(place.dir.path().join("shell.log"))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = child.stdout.take().ok_or("no output")?;
        let output = BufReader::new(output).lines();
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Types a line: whether it succeeded, and what it printed.
    async fn types(&mut self, line: &str) -> Result<(bool, String)> {
        let text = format!("{line}\necho; echo \"{END} $?\"\n");
        self.input.write_all(text.as_bytes()).await?;
        let mut printed = String::new();
        let reading = async {
            while let Some(line) = self.output.next_line().await? {
                if let Some(code) = line.strip_prefix(END) {
                    return Ok((code.trim() == "0", printed));
                }
                printed += &line;
                printed.push('\n');
            }
            Err("the shell ended".into())
        };
        let read = tokio::time::timeout(WITHIN, reading).await;
        read.map_err(|_| format!("no end of {line:?}"))?
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Types all lines. What the reads of the row printed, before and after its change.
async fn typed(place: &Place) -> Result<(String, String)> {
    let mut shell = Shell::new(place)?;
    let (mut reads, mut is_visible) = (Vec::new(), false);
    let lines = place
        .said
        .lines()
        .filter_map(|line| line.strip_prefix("  "));
    let lines: Vec<String> = lines.map(|line| place.here(line)).collect();
    expect(lines.len() > 8, &place.said)?;
    for line in &lines {
        // Logs, and what `tail` prints, stand elsewhere.
        let line = &match line.strip_suffix(" &") {
            Some(line) => format!("{line} >>background.log 2>&1 &"),
            None => line.clone(),
        };
        let (is_done, printed) = shell.types(line).await?;
        let is_read = line.starts_with("spoke-agent") && line.contains(" get ");
        let log =
            || std::fs::read_to_string(place.dir.path().join("shell.log")).unwrap_or_default();
        expect(is_done, format!("{line}\n{printed}{}", log()))?;
        if is_read {
            reads.push(printed);
        } else if line.contains("/v1/visible") {
            is_visible =
                printed.contains(r#""visible":true"#) && !printed.contains(r#""visible":false"#);
            expect(is_visible, &printed)?;
        }
    }
    expect(is_visible, "it was asked whether all regions have it")?;
    match reads.as_slice() {
        [before, after] => Ok((before.clone(), after.clone())),
        other => Err(format!("other reads: {other:?}").into()),
    }
}

/// Would catch a command that does not work as it is printed, and a secret on the screen.
#[tokio::test]
async fn a_key_is_found_by_its_hash_which_is_not_shown() -> Result<()> {
    let schema = "
        CREATE TABLE orgs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
        CREATE TABLE users (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, org_id uuid NOT NULL REFERENCES orgs);
        CREATE TABLE api_keys (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, user_id bigint NOT NULL REFERENCES users,
            key_hash bytea UNIQUE NOT NULL, status text NOT NULL CHECK (status IN ('active', 'revoked')), label varchar(20));
        INSERT INTO orgs (name) VALUES ('one');
        INSERT INTO users (org_id) SELECT id FROM orgs;
        INSERT INTO api_keys (user_id, key_hash, status, label) SELECT 1, sha256('x'), 'active', 'first';";
    let place = Place::new(schema, &["api_keys"], None).await?;
    // Of sha256('x').
    expect(!place.said.contains("2d711642b726b044"), &place.said)?;
    let (before, after) = typed(&place).await?;
    expect(before.contains(r#""label": "first""#), &before)?;
    expect(after.contains(r#""label": "first.""#), &after)
}

/// Would catch the same of a secret that is the only key.
#[tokio::test]
async fn a_row_that_only_a_secret_finds_is_found_without_showing_it() -> Result<()> {
    let schema = "
        CREATE TABLE sessions (token text PRIMARY KEY, org_id int NOT NULL, expires_at timestamptz, device text);
        CREATE INDEX ON sessions (org_id);
        INSERT INTO sessions VALUES ('a-is-over', 1, '2001-01-01', 'old'), ('b $HOME ''quoted'' \\', 1, NULL, 'new');";
    let place = Place::new(schema, &["sessions"], None).await?;
    expect(!place.said.contains("$HOME"), &place.said)?;
    let (before, after) = typed(&place).await?;
    expect(before.contains(r#""device": "new""#), &before)?;
    expect(after.contains(r#""device": "new.""#), &after)
}

/// Would catch a name or a key that means something else to a shell.
#[tokio::test]
async fn names_and_keys_of_all_sorts_are_typed_as_they_are() -> Result<()> {
    let schema = r#"
        CREATE SCHEMA "A ""b"" $HOME";
        CREATE TABLE "A ""b"" $HOME"."it's `x`!" ("the key" text, part int, tenant text NOT NULL, "Its ""Name""" text NOT NULL,
            PRIMARY KEY ("the key", part));
        CREATE INDEX ON "A ""b"" $HOME"."it's `x`!" (tenant);
        INSERT INTO "A ""b"" $HOME"."it's `x`!" VALUES ('-it''s "$HOME"!/ü', 7, 't', 'old');"#;
    let place = Place::new(schema, &[r#""A ""b"" $HOME"."it's `x`!""#], None).await?;
    let (before, after) = typed(&place).await?;
    expect(before.contains(r#""Its \"Name\"": "old""#), &before)?;
    expect(after.contains(r#""Its \"Name\"": "old.""#), &after)
}
