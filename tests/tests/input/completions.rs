//! Shell completions: made without a configuration, and a shell that has them completes commands.

use crate::desk::expect;
use std::process::Command;
use system_tests::Result;
use system_tests::process::program;

/// Would catch a file that a shell cannot read, one that lacks a command, and one whose commands have no flags.
#[test]
fn a_shell_completes_commands_and_their_flags() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (name, all) in [
        (
            "publisher",
            [("republ", "republish"), ("scan --dry", "--dry-run")],
        ),
        (
            "spoke-agent",
            [("ver", "verify"), ("follow --from-t", "--from-token")],
        ),
    ] {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let mut command = Command::new(program(name)?);
            command.current_dir(dir.path()).args(["completions", shell]);
            let output = command.output()?;
            let text = String::from_utf8(output.stdout)?;
            expect(output.status.success() && text.contains(all[0].1), shell)?;
            std::fs::write(dir.path().join(shell), text)?;
        }
        for (typed, expected) in all {
            // As bash calls what `complete -F` names: with the program, the word at the cursor and the one before.
            let words: Vec<&str> = std::iter::once(name).chain(typed.split(' ')).collect();
            let (at, [.., before, last]) = (words.len() - 1, &words[..]) else {
                return Err("two words at least".into());
            };
            let script = format!(
                "source \"$1\"; COMP_WORDS=({name} {typed}); COMP_CWORD={at}; \
                 $(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {name} {last} {before}; \
                 printf '%s\\n' \"${{COMPREPLY[@]}}\""
            );
            let mut bash = Command::new("bash");
            bash.args(["-c", &script, "bash"]);
            let output = bash.arg(dir.path().join("bash")).output()?;
            let replied = String::from_utf8_lossy(&output.stdout).into_owned();
            expect(replied.trim() == expected, format!("{replied} {output:?}"))?;
        }
    }
    Ok(())
}
