//! What is said of a configuration that is wrong: one line, with the place and the key.

use super::support::file;
use insta::assert_snapshot;
use spoke_agent::config::{Flags, Layers, RunConfig, for_run};
use std::collections::BTreeMap;
use tempfile::TempDir;

const GOOD: &str = r#"
region = "eu-west-1"
data = "${DIR}/eu.redb"
push_listen = "0.0.0.0:7511"
push_token = "${TOKEN}"
read_listen = "127.0.0.1:7521"
"#;

fn env(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let given = [("TOKEN", "secret"), ("DIR", "/var/lib/hubcast")];
    let all = given.iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn read(text: &str, flags: Flags, env: BTreeMap<String, String>) -> Result<RunConfig, String> {
    let dir = TempDir::new().expect("a directory");
    let path = file(dir.path(), "agent.toml", text);
    let layers = Layers::read(Some(&path), flags, env);
    let config = layers.and_then(|layers| for_run(&layers));
    let place = dir.path().display().to_string() + "/";
    config.map_err(|error| error.to_string().replace(&place, ""))
}

fn wrong(text: &str) -> String {
    read(text, vec![], env(&[])).expect_err("wrong")
}

fn with(line: &str) -> String {
    wrong(&format!("{GOOD}{line}\n"))
}

fn without(key: &str, line: &str) -> String {
    let kept: Vec<&str> = GOOD.lines().filter(|kept| !kept.starts_with(key)).collect();
    wrong(&format!("{}\n{line}\n", kept.join("\n")))
}

#[test]
fn the_file_is_overridden_by_the_environment_and_that_by_flags() {
    let from_file = read(GOOD, vec![], env(&[])).expect("good");
    assert_eq!(from_file.region.as_str(), "eu-west-1");
    assert_eq!(from_file.data.to_str(), Some("/var/lib/hubcast/eu.redb"));
    assert_eq!(from_file.cache_bytes, 64 << 20);
    assert!(from_file.read.socket.is_none() && from_file.read.token.is_none());
    let over = env(&[
        ("HUBCAST_AGENT_REGION", "from-env"),
        ("HUBCAST_AGENT_CACHE_MIB", "8"),
    ]);
    let from_env = read(GOOD, vec![], over.clone()).expect("good");
    assert_eq!(
        (from_env.region.as_str(), from_env.cache_bytes),
        ("from-env", 8 << 20)
    );
    let flags = vec![("region", "from-flag".to_owned())];
    assert_eq!(
        read(GOOD, flags, over).expect("good").region.as_str(),
        "from-flag"
    );
}

#[test]
fn a_value_can_come_from_a_file_and_its_last_line_break_is_not_part_of_it() {
    let dir = TempDir::new().expect("a directory");
    let secret = file(dir.path(), "region", "eu-west-9\n");
    let flags = vec![("region", format!("${{file:{}}}", secret.display()))];
    assert_eq!(
        read(GOOD, flags, env(&[])).expect("good").region.as_str(),
        "eu-west-9"
    );
}

#[test]
fn keys_that_are_unknown_missing_or_mistyped_are_named_with_their_place() {
    assert_snapshot!(with("read_lisen = \"127.0.0.1:1\""), @r#"agent.toml:7: there is no key "read_lisen"; did you mean "read_listen"?"#);
    assert_snapshot!(with("colour = \"red\""), @r#"agent.toml:7: there is no key "colour"; the keys are region, data, push_listen, push_token, read_listen, read_token, read_socket, cache_mib, memory_mib"#);
    assert_snapshot!(with("cache_mib = \"much\""), @"agent.toml:7: cache_mib must be a whole number, not a text");
    assert_snapshot!(with("cache_mib = 0"), @r#"agent.toml:7: cache_mib must be a whole number from 1 to 1048576, not "0""#);
    assert_snapshot!(with("read_token = 5"), @"agent.toml:7: read_token must be a text in quotes, not a number");
    assert_snapshot!(with("= 5"), @"agent.toml:7: this is not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`");
    assert_snapshot!(without("data", ""), @"data is not set; write it into the configuration file, or set HUBCAST_AGENT_DATA or --data");
    assert_snapshot!(without("read_listen", ""), @"read_listen is not set; write it into the configuration file, or set HUBCAST_AGENT_READ_LISTEN or --read-listen");
    assert_snapshot!(without("region", "region = \"eu west\""), @r#"agent.toml:6: region "eu west" is not a valid region: a region is made of a-z, A-Z, 0-9, '-', '_' and '.'"#);
}

#[test]
fn addresses_and_tokens_are_checked_before_anything_is_opened() {
    assert_snapshot!(without("push_listen", "push_listen = \"eu.example.com:7511\""), @r#"agent.toml:6: push_listen must be IP:PORT, such as 127.0.0.1:7521, not "eu.example.com:7511""#);
    assert_snapshot!(without("read_listen", "read_listen = \"0.0.0.0:7521\""), @"agent.toml:6: read_listen is 0.0.0.0:7521, which is not loopback: set read_token, or every host that reaches it can read");
    assert_snapshot!(without("push_token", "push_token = \"\""), @"agent.toml:6: push_token is empty");
    assert_snapshot!(without("push_token", "push_token = \"two words\""), @"agent.toml:6: push_token must be printable ASCII without spaces, since it travels in a header");
    assert_snapshot!(without("push_token", "push_token = \"${NOT_SET}\""), @"agent.toml:6: push_token refers to the environment variable NOT_SET, which is not set");
    assert_snapshot!(without("push_token", "push_token = \"${file:/nowhere/token}\""), @"agent.toml:6: push_token refers to the file /nowhere/token, which cannot be read: No such file or directory (os error 2)");
    assert_snapshot!(without("push_token", "push_token = \"${TOKEN\""), @"agent.toml:6: push_token has a ${ without its }");
}

#[test]
fn no_message_contains_a_token() {
    let flags = vec![("push_token", "very secret".to_owned())];
    let message = read(GOOD, flags, env(&[])).expect_err("wrong");
    assert!(!message.contains("very secret"), "{message}");
    let config = read(GOOD, vec![], env(&[])).expect("good");
    assert!(!format!("{config:?}").contains("secret\""), "{config:?}");
}
