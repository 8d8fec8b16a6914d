//! Shell completions: made without a configuration, and a shell that has them completes commands.

use crate::desk::expect;
use std::process::Command;
use system_tests::Result;
use system_tests::process::program;

/// Would catch a file that a shell cannot read, and one that lacks a command.
#[test]
fn a_shell_completes_commands() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (name, typed, expected) in [
        ("publisher", "republ", "republish"),
        ("spoke-agent", "ver", "verify"),
    ] {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let mut command = Command::new(program(name)?);
            command.current_dir(dir.path()).args(["completions", shell]);
            let output = command.output()?;
            let text = String::from_utf8(output.stdout)?;
            expect(output.status.success() && text.contains(expected), shell)?;
            if shell != "bash" {
                continue;
            }
            let file = dir.path().join(name);
            std::fs::write(&file, text)?;
            // As bash calls what `complete -F` names.
            let script = format!(
                "source \"$1\"; COMP_WORDS=({name} {typed}); COMP_CWORD=1; \
                 $(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {name} {typed} {name}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            );
            let output = Command::new("bash")
                .args(["-c", &script, "bash"])
                .arg(&file)
                .output()?;
            let replied = String::from_utf8_lossy(&output.stdout).into_owned();
            expect(replied.trim() == expected, format!("{replied} {output:?}"))?;
        }
    }
    Ok(())
}
